"""The worked examples of the key-sharing protocol's specification are what this implementation makes."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from shared.keys.kcv import KCV_LABEL, key_check_value
from shared.keys.wrapping import WRAP_LABEL, WrapContext
from shared.policy.document import CLAIM_GROUPS, Operator, load_policy
from shared.public_keys import RSA_BITS, RSA_EXPONENT
from shared.release.document import Release, ReleasedKey, assemble, encode_claims, to_be_signed
from shared.release.verifying import Expectation, Verdict, verify_release
from shared.rollout import bucket
from shared.types import Audience, DeviceId, Fingerprint, KeyName, Secret, WrapAlgorithm

SPEC = (Path(__file__).parents[3] / "docs" / "spec" / "key-sharing-protocol.md").read_text()
CLASS_KEY = Secret(bytes(range(32)))
WRAPPED = b"wrapped"
KID = "https://vault.example/keys/release/1"
SIGNER = ec.derive_private_key(1, ec.SECP256R1())
CONTEXT = WrapContext(
    audience=Audience("fleet-a"), device_id="edge-01", name=KeyName("my_confidential_app"), version=3
)
RELEASE = Release(
    device_id=DeviceId("edge-01"),
    audience=Audience("fleet-a"),
    issued_at=1_790_000_000,
    expires_at=1_792_592_000,
    sequence=1_790_000_000_000,
    fingerprint=Fingerprint(hashlib.sha256(b"device key").digest()),
    keys={
        KeyName("my_confidential_app"): ReleasedKey(
            version=3,
            algorithm=WrapAlgorithm.RSA_OAEP_256,
            not_after=1_792_592_000,
            wrapped_sha256=hashlib.sha256(WRAPPED).digest(),
        )
    },
    floors={KeyName("my_confidential_app"): 2},
    policy_sha256=hashlib.sha256(b"policy").digest(),
)


def example(name):
    """Return the bytes of the block that follows `<!-- example: name -->`; `#` begins a comment."""
    (block,) = re.findall(rf"<!-- example: {name} -->\n```text\n(.*?)```", SPEC, re.DOTALL)
    return bytes.fromhex("".join(line.partition("#")[0] for line in block.splitlines()))


def signed_release():
    claims = encode_claims(RELEASE)
    algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    r, s = decode_dss_signature(SIGNER.sign(to_be_signed(claims, kid=KID), algorithm))
    return assemble(claims, kid=KID, signature=r.to_bytes(32, "big") + s.to_bytes(32, "big"))


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("class key", CLASS_KEY.reveal),
        ("wrap info", lambda: CONTEXT.info(WRAP_LABEL)),
        ("kcv info", lambda: CONTEXT.info(KCV_LABEL)),
        ("kcv", lambda: key_check_value(CLASS_KEY, context=CONTEXT)),
        ("release", signed_release),
        ("signed bytes", lambda: to_be_signed(encode_claims(RELEASE), kid=KID)),
    ],
)
def test_the_examples_come_out_as_they_stand(name, made):
    assert example(name) == made()


def test_the_example_release_verifies_as_the_text_says():
    expected = Expectation(
        audience=RELEASE.audience,
        device_id=RELEASE.device_id,
        fingerprint=RELEASE.fingerprint,
        at=datetime.fromtimestamp(RELEASE.issued_at, UTC),
        last_sequence=0,
        last_digest=None,
        floors={},
    )
    wrapped = {KeyName("my_confidential_app"): WRAPPED}
    pinned = [SIGNER.public_key()]
    assert verify_release(example("release"), wrapped, pinned, expected) == (Verdict.NEW, RELEASE)


def test_the_example_policy_loads():
    (text,) = re.findall(r"<!-- example: policy -->\n```json\n(.*?)```", SPEC, re.DOTALL)
    policy = load_policy(text.encode(), where="example")
    assert [rule.id for rule in policy.rules] == ["gateways", "builds"]


def test_the_tables_name_every_algorithm_operator_and_claim_group():
    for algorithm in WrapAlgorithm:
        assert re.search(rf"\| `{re.escape(algorithm.value)}` \|.*\| {algorithm.cose} \|", SPEC)
    for operator in Operator:
        assert f"`{operator.value}`" in SPEC
    for group in CLAIM_GROUPS:
        assert f"`{group}.*`" in SPEC
    for bits in (*RSA_BITS, RSA_EXPONENT):
        assert str(bits) in SPEC


def test_buckets_are_those_of_the_table():
    lines = re.findall(r"^\| ((?:`edge[^`]*`(?:, )?)+) \| (\d+) \|$", SPEC, re.MULTILINE)
    told = {name: int(number) for names, number in lines for name in re.findall(r"`([^`]+)`", names)}
    assert told == {name: bucket(name) for name in ("edge-01", "edge-01/my-module", "edge-02")}
