"""Write the vectors of this folder: `python generate.py [--wrapped]`.

`release.json` and `kcv.json` come out the same at every run: their keys are derived from fixed texts and
their signatures are deterministic ECDSA (RFC 6979). Wrapping is random, so `wrapped.json` is written on
demand only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from shared.encoding import encode_cbor
from shared.keys.kcv import KCV_LABEL, key_check_value
from shared.keys.wrapping import WRAP_LABEL, WrapContext, algorithms_for, wrap_key
from shared.public_keys import load_public_key
from shared.release.document import (
    Release,
    ReleasedKey,
    assemble,
    encode_claims,
    to_be_signed,
)
from shared.types import Audience, DeviceId, Fingerprint, KeyName, Secret, WrapAlgorithm

HERE = Path(__file__).parent
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
KID = "https://vault.example/keys/release-signing/0123456789abcdef0123456789abcdef"
ISSUED_AT = 1_790_000_000
NOW = ISSUED_AT + 60
EXPIRES_AT = ISSUED_AT + 30 * 86_400
SEQUENCE = 1_790_000_000_000
APP, OTHER = KeyName("my_confidential_app"), KeyName("other")
WRAPPED = {
    APP: hashlib.sha512(b"wrapped app").digest() * 4,
    OTHER: hashlib.sha512(b"wrapped other").digest() * 4,
}


def release_key(label: str = "release key") -> ec.EllipticCurvePrivateKey:
    """Return the test key that belongs to a label."""
    number = int.from_bytes(hashlib.sha256(label.encode()).digest(), "big") % (P256_ORDER - 1) + 1
    return ec.derive_private_key(number, ec.SECP256R1())


def base_release() -> Release:
    """Return the release that most cases are made from."""
    return Release(
        device_id=DeviceId("edge-01"),
        audience=Audience("fleet-a"),
        issued_at=ISSUED_AT,
        expires_at=EXPIRES_AT,
        sequence=SEQUENCE,
        fingerprint=Fingerprint(hashlib.sha256(b"device key").digest()),
        keys={
            APP: released(APP, 3, WrapAlgorithm.RSA_OAEP_256),
            OTHER: released(OTHER, 1, WrapAlgorithm.HPKE_P256),
        },
        floors={APP: 2},
        policy_sha256=hashlib.sha256(b"policy").digest(),
    )


def released(name: KeyName, version: int, algorithm: WrapAlgorithm) -> ReleasedKey:
    """Return what a release says of one of the vectors' wrapped keys."""
    return ReleasedKey(
        version=version,
        algorithm=algorithm,
        not_after=EXPIRES_AT,
        wrapped_sha256=hashlib.sha256(WRAPPED[name]).digest(),
    )


def sign(to_sign: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the ES256 signature, r and s."""
    r, s = decode_dss_signature(key.sign(to_sign, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def signed(release: Release, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """Return the release, signed."""
    return signed_claims(encode_claims(release), key)


def signed_claims(claims: bytes, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """Return any claims, signed."""
    signature = sign(to_be_signed(claims, kid=KID), key or release_key())
    return assemble(claims, kid=KID, signature=signature)


def release_cases() -> list[dict[str, object]]:
    """Return all cases of `release.json`."""
    base = base_release()
    good = signed(base)
    replace = dataclasses.replace
    low = replace(base, keys={APP: released(APP, 1, WrapAlgorithm.RSA_OAEP_256)}, floors={})
    ended = {APP: replace(base.keys[APP], not_after=NOW)}
    unordered = encode_cbor(cbor2.loads(encode_claims(base)))
    claims = cbor2.loads(encode_claims(base))
    app_only = {APP: WRAPPED[APP]}
    digest = hashlib.sha256(good).hexdigest()
    return [
        case("first release", "new", good),
        case("sequence above the last", "new", good, last_sequence=SEQUENCE - 1, last_digest="00" * 32),
        case("the same bytes again", "already_applied", good, last_sequence=SEQUENCE, last_digest=digest),
        case("no keys at all", "new", signed(replace(base, keys={}, floors={APP: 4})), wrapped={}),
        case("signed by a key that is not pinned", "signature_invalid", signed(base, release_key("another"))),
        case("one claim bit turned", "signature_invalid", flip(good, len(good) // 2)),
        case("one signature bit turned", "signature_invalid", flip(good, len(good) - 1)),
        case("r and s are zero", "signature_invalid", good[:-64] + bytes(64)),
        case("another deployment", "wrong_device", good, audience="fleet-b"),
        case("another device", "wrong_device", good, device_id="edge-02"),
        case("a module of the device", "wrong_device", good, device_id="edge-01/agent"),
        case("another device key", "key_mismatch", good, fingerprint="11" * 32),
        case("an older sequence", "replay", good, last_sequence=SEQUENCE + 1, last_digest="00" * 32),
        case("the last sequence, other bytes", "replay", good, last_sequence=SEQUENCE, last_digest="00" * 32),
        case("sequence zero", "replay", signed(replace(base, sequence=0))),
        case("a version below the stored floor", "rollback", good, floors={APP: 4}),
        case("a version at the stored floor", "new", good, floors={APP: 3}),
        case(
            "a version below its own floor",
            "rollback",
            signed(replace(low, floors={APP: 2})),
            wrapped=app_only,
        ),
        case("expired", "expired", good, at=EXPIRES_AT),
        case("one second before it expires", "new", good, at=EXPIRES_AT - 1),
        case("a lease that has ended", "expired", signed(replace(base, keys=ended)), wrapped=app_only),
        case("a wrapped key exchanged", "signature_invalid", good, wrapped={**WRAPPED, OTHER: bytes(256)}),
        case("a wrapped key missing", "signature_invalid", good, wrapped=app_only),
        case(
            "a wrapped key too many", "signature_invalid", good, wrapped={**WRAPPED, KeyName("third"): b"x"}
        ),
        case("not CBOR", "malformed", b"\xff" + good[1:]),
        case("cut off", "malformed", good[:-1]),
        case("a byte too many", "malformed", good + b"\0"),
        case("no tag", "malformed", good[1:]),
        case("another tag", "malformed", b"\xd1" + good[1:]),
        case("indefinite length array", "malformed", good[:1] + b"\x9f" + good[2:] + b"\xff"),
        case("claims in another order", "malformed", signed_claims(reorder(unordered))),
        case("an unknown claim", "malformed", signed_claims(encode_cbor({**claims, -70004: 1}))),
        case("a missing claim", "malformed", signed_claims(encode_cbor(without(claims, 6)))),
        case("exp is true", "malformed", signed_claims(encode_cbor({**claims, 4: True}))),
        case("exp is a float", "malformed", signed_claims(encode_cbor({**claims, 4: float(EXPIRES_AT)}))),
        case("cti of 7 bytes", "malformed", signed_claims(encode_cbor({**claims, 7: bytes(7)}))),
        case("version zero", "malformed", signed_claims(encode_cbor({**claims, -70002: {APP: 0}}))),
        case(
            "a key name with a dot",
            "name_invalid",
            signed_claims(encode_cbor({**claims, -70002: {"a.b": 1}})),
        ),
        case(
            "an unknown wrapping algorithm",
            "unsupported_algorithm",
            signed_claims(encode_cbor({**claims, -70001: {APP: [1, -65540, NOW, bytes(32)]}})),
        ),
        case("alg ES384 in the header", "malformed", reheaded(good, {1: -35, 4: KID.encode()})),
        case("a header parameter too many", "malformed", reheaded(good, {1: -7, 2: [4], 4: KID.encode()})),
        case("no kid", "malformed", reheaded(good, {1: -7})),
        case("kid unprotected", "malformed", reheaded(good, {1: -7}, {4: KID.encode()})),
    ]


def case(
    name: str,
    result: str,
    cose: bytes,
    *,
    wrapped: dict[KeyName, bytes] | None = None,
    at: int = NOW,
    **other: object,
) -> dict[str, object]:
    """Return one case; what is not stated is as the base release expects it."""
    base = base_release()
    return {
        "name": name,
        "cose": cose.hex(),
        "wrapped": {each: value.hex() for each, value in (WRAPPED if wrapped is None else wrapped).items()},
        "expected": {
            "audience": base.audience,
            "device_id": base.device_id,
            "fingerprint": base.fingerprint.hex(),
            "at": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "last_sequence": 0,
            "last_digest": None,
            "floors": {},
            **other,
        },
        "result": result,
    }


def flip(data: bytes, at: int) -> bytes:
    """Return the bytes with one bit turned."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def without(claims: dict[int, object], label: int) -> dict[int, object]:
    """Return the claims without one."""
    return {key: value for key, value in claims.items() if key != label}


def reorder(claims: bytes) -> bytes:
    """Return the same map with its last pair first: valid CBOR, and not deterministic."""
    return cbor2.dumps(dict(reversed(cbor2.loads(claims).items())))


def reheaded(
    cose: bytes, protected: dict[int, object], unprotected: dict[int, object] | None = None
) -> bytes:
    """Return the release with other headers, and a signature that holds over them."""
    _, _, claims, _ = cbor2.loads(cose).value
    header = encode_cbor(protected)
    signature = sign(encode_cbor(["Signature1", header, b"", claims]), release_key())
    return encode_cbor(cbor2.CBORTag(18, [header, unprotected or {}, claims, signature]))


def contexts() -> list[tuple[bytes, WrapContext]]:
    """Return class keys with whom they are for."""
    rows = [
        (16, "fleet-a", "edge-01", "a", 1),
        (24, "fleet-a", "edge-01/agent", "my_confidential_app", 2),
        (32, "fleet-a", "edge-01", "my_confidential_app", 3),
        (32, "fleet-a", "edge-02", "my_confidential_app", 3),
        (32, "f", "d" * 128 + "/" + "m" * 128, "k" * 64, 2**32 - 1),
    ]
    return [
        (
            hashlib.sha256(b"class key").digest()[:length],
            WrapContext(audience=Audience(audience), device_id=device, name=KeyName(name), version=version),
        )
        for length, audience, device, name, version in rows
    ]


def context_fields(key: bytes, context: WrapContext) -> dict[str, object]:
    """Return a context as JSON."""
    return {
        "class_key": key.hex(),
        "audience": context.audience,
        "device_id": context.device_id,
        "name": context.name,
        "version": context.version,
    }


def kcv_cases() -> list[dict[str, object]]:
    """Return all cases of `kcv.json`."""
    return [
        {
            **context_fields(key, context),
            "kcv_info": context.info(KCV_LABEL).hex(),
            "wrap_info": context.info(WRAP_LABEL).hex(),
            "kcv": key_check_value(Secret(key), context=context).hex(),
        }
        for key, context in contexts()
    ]


def wrapped_cases() -> list[dict[str, object]]:
    """Return all cases of `wrapped.json`, with new keys."""
    cases: list[dict[str, object]] = []
    keys = (
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256R1()),
        x25519.X25519PrivateKey.generate(),
    )
    for private in keys:
        spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        public = load_public_key(spki, where="generated key")
        pkcs8 = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        for algorithm in algorithms_for(public.kind):
            for key, context in contexts()[:3]:
                cases.append(
                    {
                        "algorithm": algorithm.value,
                        "private_key": pkcs8.hex(),
                        **context_fields(key, context),
                        "wrapped": wrap_key(Secret(key), public, algorithm, context=context).hex(),
                    }
                )
    return cases


def release_document() -> dict[str, object]:
    """Return the content of `release.json`."""
    pem = release_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {"release_keys": [pem.decode()], "cases": release_cases()}


def write(name: str, content: object) -> None:
    """Write one file."""
    (HERE / name).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    write("release.json", release_document())
    write("kcv.json", {"cases": kcv_cases()})
    if "--wrapped" in sys.argv:
        write("wrapped.json", {"cases": wrapped_cases()})
