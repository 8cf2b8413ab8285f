"""Whatever a plan and a twin hold: what fits for certain does fit."""

from __future__ import annotations

import functools

from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import FormatError
from shared.keys.wrapping import algorithms_for
from shared.public_keys import load_public_key
from shared.release.document import MAX_TIME
from shared.twin.documents import KEYS, RELEASE
from shared.twin.entitlement import Entitlement
from shared.twin.held import read_held
from shared.twin.plan import Plan, fits_for_certain, planned_size
from shared.twin.ports import Twin
from shared.types import MAX_KEY_VERSION, Audience, DeviceId, Fingerprint, KeyName


@functools.cache
def public_key(kind):
    key = {
        "rsa": rsa.RSAPublicNumbers(65537, (1 << 4095) | 1).public_key,
        "ec": ec.derive_private_key(7, ec.SECP256R1()).public_key,
        "x25519": x25519.X25519PrivateKey.from_private_bytes(b"k" * 32).public_key,
    }[kind]()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return load_public_key(spki, where="key")


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True).map(KeyName)
sections = st.dictionaries(
    st.sampled_from([KEYS, RELEASE, "other", "$metadata"]) | st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=40),
        lambda inner: st.dictionaries(st.sampled_from(["v", "cose", "0", "7"]) | names, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@st.composite
def plans(draw):
    kind = draw(st.sampled_from(["rsa", "ec", "x25519"]))
    receiver = public_key(kind)
    times = st.integers(0, MAX_TIME - 366 * 86_400)
    entitlements = st.builds(
        Entitlement,
        version=st.integers(1, MAX_KEY_VERSION),
        algorithm=st.sampled_from(algorithms_for(receiver.kind)),
        key_bytes=st.sampled_from([16, 24, 32]),
        rule_id=st.just("rule"),
        lease_seconds=st.integers(60, 366 * 86_400),
    )
    return Plan(
        device_id=DeviceId("d" * draw(st.integers(1, 257))),
        audience=Audience("a" * draw(st.integers(1, 64))),
        public_key=receiver,
        fingerprint=Fingerprint(bytes(32)),
        keys=draw(st.dictionaries(names, entitlements, max_size=40)),
        floors=draw(st.dictionaries(names, st.integers(1, MAX_KEY_VERSION), max_size=40)),
        sequence=draw(st.integers(0, 2**52)),
        issued_at=draw(times),
        expires_at=draw(times),
        policy_sha256=bytes(32),
        is_signed=draw(st.booleans()),
    )


@settings(max_examples=300, deadline=None)
@given(plan=plans(), desired=sections, key_id=st.text(min_size=1, max_size=120))
def test_what_does_not_fit_does_not_fit_for_certain(plan, desired, key_id):
    twin = Twin(device_id=plan.device_id, etag="1", status="enabled", tags={}, desired=desired, reported={})
    try:
        size = planned_size(twin, read_held(twin, ()), plan, key_id=key_id)
    except FormatError:  # too long for a twin: then it fits into no budget that there is
        assert not fits_for_certain(twin, plan, key_id=key_id, budget=24 * 1024)
        return
    assert not fits_for_certain(twin, plan, key_id=key_id, budget=size - 1)


def test_ten_rsa_keys_of_2048_bits_fit_for_certain():
    key = rsa.RSAPublicNumbers(65537, (1 << 2047) | 1).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    receiver = load_public_key(spki, where="key")
    entitlement = Entitlement(
        version=1,
        algorithm=algorithms_for(receiver.kind)[0],
        key_bytes=32,
        rule_id="rule",
        lease_seconds=60,
    )
    plan = Plan(
        device_id=DeviceId("edge-01"),
        audience=Audience("fleet"),
        public_key=receiver,
        fingerprint=receiver.fingerprint,
        keys={KeyName(f"app-{number}"): entitlement for number in range(10)},
        floors={},
        sequence=1,
        issued_at=1,
        expires_at=2,
        policy_sha256=bytes(32),
        is_signed=True,
    )
    twin = Twin(device_id=plan.device_id, etag="1", status="enabled", tags={}, desired={}, reported={})
    assert fits_for_certain(twin, plan, key_id="k" * 90, budget=24 * 1024)
