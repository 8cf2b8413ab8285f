"""Make the ``y-…`` vectors of ``tests/vectors/cpk`` anew: every scheme, by hand, with fresh keys each time.

The bytes are put together with ``struct``, ``json`` and one-shot calls of ``cryptography`` alone: what the
vectors judge has no part in them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FOLDER = Path(__file__).parent / "cpk"
START, END = datetime(2025, 11, 1, tzinfo=UTC), datetime(2046, 10, 27, tzinfo=UTC)
PAYLOAD = bytes(range(256)) * 4
KEY_NAME = "y-key"
SEGMENT = 1 << 16
PURE = ("ed25519", "ml-dsa-65")
HASH_OF = {"rsa-pkcs1v15": "sha256", "rsa-pss": "sha256", "ecdsa-p256": "sha256", "ecdsa-p384": "sha384"}
SIZE_OF = {"ecdsa-p256": 64, "ecdsa-p384": 96, "ed25519": 64, "ml-dsa-65": 3309}

KEYS = {f"{KEY_NAME}-{bits}": os.urandom(bits // 8) for bits in (128, 192, 256)}
PRIVATE: dict[str, Any] = {
    "rsa-pkcs1v15": rsa.generate_private_key(65537, 2048),
    "rsa-pss": rsa.generate_private_key(65537, 3072),
    "ecdsa-p256": ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-p384": ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate(),
}
SCHEMES = tuple(PRIVATE)
ROOT_KEY = ec.generate_private_key(ec.SECP384R1())
MIDDLE_KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(subject, public, issuer, issuer_key, *, ca=False, start=START, end=END):
    name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])  # noqa: E731
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign")
    usage = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(identifier, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


ROOT = certificate("Scheme Root", ROOT_KEY.public_key(), "Scheme Root", ROOT_KEY, ca=True)
MIDDLE = certificate("Scheme Middle", MIDDLE_KEY.public_key(), "Scheme Root", ROOT_KEY, ca=True)
STRANGER_KEY = ec.generate_private_key(ec.SECP256R1())
STRANGER = certificate("Stranger", STRANGER_KEY.public_key(), "Stranger", STRANGER_KEY)


def leaf(scheme, **times):
    return certificate(f"Signer {scheme}", PRIVATE[scheme].public_key(), "Scheme Root", ROOT_KEY, **times)


LEAVES = {scheme: leaf(scheme) for scheme in SCHEMES}


def pem(*chain):
    return b"".join(each.public_bytes(Encoding.PEM) for each in chain)


def der(*chain):
    return b"".join(each.public_bytes(Encoding.DER) for each in chain)


def spki(scheme, encoding=Encoding.DER):
    return PRIVATE[scheme].public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def pin(scheme):
    return hashlib.sha256(spki(scheme)).hexdigest()


def sign(scheme, data, role, algorithm, *, salt=32):
    """Sign ``data``, hashed here: nothing is handed over as a digest but to the pure schemes."""
    key = PRIVATE[scheme]
    if scheme == "rsa-pkcs1v15":
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if scheme == "rsa-pss":
        return key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())
    if scheme in PURE:
        return key.sign(b"CPK-SIG-v1\0" + role.encode() + b"\0" + hashlib.new(algorithm, data).digest())
    hashed = hashes.SHA256() if scheme == "ecdsa-p256" else hashes.SHA384()
    numbers = decode_dss_signature(key.sign(data, ec.ECDSA(hashed)))
    return b"".join(number.to_bytes(SIZE_OF[scheme] // 2, "big") for number in numbers)


@dataclass
class Recipe:
    """One package, as what goes into it."""

    enc: str = "aes-gcm"
    bits: int = 256
    segment_size: int = SEGMENT
    payload: bytes = PAYLOAD
    dig: str = "sha256"
    sig: str | None = "ecdsa-p256"
    cert: Any = None  # manifest value without data, and the stream's bytes
    package_sig: str | None = "ecdsa-p256"
    package_dig: str = "sha256"
    package_cert: Any = None  # None: the payload's
    payload_first: bool = False
    salt_length: int = 32
    role_of_payload: str = "payload"
    flags: Any = None  # segment number, count -> last-segment flag
    first_counter: int = 0
    edit: Any = None  # changes the manifest before anything is sealed or signed
    spoil: dict[int, Any] = field(default_factory=dict)  # stream -> change, after everything
    verifier: dict[str, Any] = field(default_factory=dict)


def encrypt(recipe, manifest):
    """Return the payload's stream and the two beside it."""
    key = KEYS[f"{KEY_NAME}-{recipe.bits}"]
    if recipe.enc == "none":
        return recipe.payload, b"", b""
    if recipe.enc != "aes-gcm-stream":
        nonce = os.urandom(12)
        cipher = AESGCM(key) if recipe.enc == "aes-gcm" else ChaCha20Poly1305(key)
        sealed = cipher.encrypt(nonce, recipe.payload, None)
        return sealed[:-16], nonce, sealed[-16:]
    salt, prefix = os.urandom(32), os.urandom(7)
    cipher = AESGCM(HKDF(hashes.SHA256(), recipe.bits // 8, salt, b"CPK-STREAM-v1").derive(key))
    associated = hashlib.sha256(manifest).digest()
    size = recipe.segment_size
    parts = [recipe.payload[at : at + size] for at in range(0, len(recipe.payload), size)]
    flag = recipe.flags or (lambda number, count: number == count - 1)
    stored = b"".join(
        cipher.encrypt(
            prefix + struct.pack(">IB", number + recipe.first_counter, flag(number, len(parts))),
            part,
            associated,
        )
        for number, part in enumerate(parts)
    )
    return stored, salt, prefix


def enc_value(recipe):
    name = {"key_name": f"{KEY_NAME}-{recipe.bits}"}
    strength = {"key_strength": recipe.bits}
    if recipe.enc == "none":
        return "none"
    if recipe.enc == "aes-gcm":
        return {"aes-gcm": name | strength | {"nonce": 1, "tag": 2}}
    if recipe.enc == "chacha20-poly1305":
        return {"chacha20-poly1305": name | {"nonce": 1, "tag": 2}}
    inner = name | strength | {"segment_size": recipe.segment_size, "salt": 1, "prefix": 2}
    return {"aes-gcm-stream": inner}


def sig_value(scheme, index):
    if scheme is None:
        return "none"
    inner = {"data": index}
    if scheme.startswith("rsa"):
        inner = {"key_strength": PRIVATE[scheme].key_size} | inner
    return {scheme: inner}


def size_of(scheme):
    return SIZE_OF.get(scheme) or PRIVATE[scheme].key_size // 8


def build(recipe):
    """Return a package's bytes: its streams are always eight or nine, unused ones are empty."""
    tag, data = recipe.cert or ("embedded-x509-pem", pem(LEAVES[recipe.sig]) if recipe.sig else b"")
    package_tag, package_data = recipe.package_cert or (tag, None)
    certs = []
    for each, stream, index in ((tag, data, 5), (package_tag, package_data, 8)):
        place = 5 if stream is None else index
        certs.append({each: {"data": place}} if isinstance(each, str) else each)
    streams = [b"", b"", b"", b"", b"", data or b"", b"", b"", package_data or b"", b""]
    manifest_index = 9
    mapped = [0, 1, 2, 3, 4, *([5] if data else []), *([8] if package_data else [])]
    mapped = [*mapped, manifest_index] if recipe.payload_first else [manifest_index, *mapped]
    if recipe.enc == "none":
        mapped = [index for index in mapped if index not in (1, 2)]
    if recipe.dig == "none":
        mapped.remove(3)
    of_ciphertext = recipe.dig.endswith("-ciphertext")
    algorithm = recipe.dig.removesuffix("-ciphertext").replace("none", "sha256")
    document = {
        "cp-id": "y-app",
        "cp-name": "Scheme vectors",
        "cp-vendor": "",
        "payload": {
            "data": 0,
            "target": {"arch": "any", "os": "any"},
            "ver": {"maj": 1, "min": 2, "rev": 3, "date": "2026-11-20 12:00:00.000000 UTC"},
            "enc": enc_value(recipe),
            "dig": "none" if recipe.dig == "none" else {recipe.dig: {"data": 3}},
            "sig": sig_value(recipe.sig, 4),
            "cert": certs[0] if recipe.sig else "none",
        },
        "package": {
            "map": mapped if recipe.package_sig else [],
            "dig": {recipe.package_dig: {"data": 6}} if recipe.package_sig else "none",
            "sig": sig_value(recipe.package_sig, 7),
            "cert": certs[1] if recipe.package_sig else "none",
        },
    }
    if recipe.edit:
        recipe.edit(document)
    streams[9] = json.dumps(document, separators=(",", ":")).encode()
    streams[0], streams[1], streams[2] = encrypt(recipe, streams[9])
    subject = streams[0] if of_ciphertext else recipe.payload
    streams[3] = hashlib.new(algorithm, subject).digest() if recipe.dig != "none" else b""
    if recipe.sig:
        streams[4] = sign(recipe.sig, subject, recipe.role_of_payload, algorithm, salt=recipe.salt_length)
    if recipe.package_sig:
        covered = b"".join(streams[index] for index in mapped)
        streams[6] = hashlib.new(recipe.package_dig, covered).digest()
        streams[7] = sign(recipe.package_sig, covered, "package", recipe.package_dig)
    for index, change in recipe.spoil.items():
        streams[index] = change(streams[index])
    return encode(streams, manifest_index)


def encode(streams, manifest_index):
    table, offset = b"", 0
    for stream in streams:
        table += struct.pack("<QQ", offset, len(stream))
        offset += len(stream)
    header = struct.pack("<IHHHHHH", 0x0ECCF00D, 1, 0, len(streams), manifest_index, 1, 1)
    return header + table + b"".join(streams)


def flip(at):
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def both(scheme):
    """Return what signs payload and package by one scheme, digested as it signs."""
    algorithm = HASH_OF.get(scheme, "sha256")
    return {"sig": scheme, "package_sig": scheme, "dig": algorithm, "package_dig": algorithm}


class Collection(dict[str, tuple[str, str, str | None, Recipe]]):
    """Vectors by id: what each shows, what a reader says, the code where it refuses, the recipe."""

    def ok(self, name, what, **recipe):
        self[f"y-{name}"] = (what, "ok", None, Recipe(**recipe))

    def refused(self, name, what, code, **recipe):
        self[f"y-{name}"] = (what, "refused", code, Recipe(**recipe))

    def malformed(self, name, what, **recipe):
        self[f"y-{name}"] = (what, "malformed", None, Recipe(**recipe))


def add_encryption(made):
    for bits in (128, 192, 256):
        made.ok(f"enc-aes-gcm-{bits}", f"AES-{bits}-GCM", bits=bits)
        made.ok(f"enc-stream-{bits}", f"AES-{bits}-GCM in segments", enc="aes-gcm-stream", bits=bits)
    made.ok("enc-chacha20", "ChaCha20-Poly1305", enc="chacha20-poly1305")
    for size in (1, 15, 16, 17, 63, 64, 65, 70001):
        payload = os.urandom(size)
        made.ok(
            f"enc-chacha20-{size}",
            f"ChaCha20-Poly1305, {size} bytes",
            enc="chacha20-poly1305",
            payload=payload,
        )
    for size in (1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 1):
        made.ok(
            f"stream-{size}",
            f"segments of 64 KiB, {size} bytes",
            enc="aes-gcm-stream",
            payload=os.urandom(size),
        )
    for bits in (17, 18, 19, 20):
        made.ok(
            f"stream-segment-{1 << bits}",
            f"one segment of at most {1 << bits} bytes",
            enc="aes-gcm-stream",
            segment_size=1 << bits,
        )
    made.ok(
        "enc-chacha20-strength",
        "key_strength in chacha20-poly1305 is an unknown field",
        enc="chacha20-poly1305",
        edit=lambda document: document["payload"]["enc"]["chacha20-poly1305"].update(key_strength=128),
    )
    for stream, what in ((0, "ciphertext"), (1, "nonce"), (2, "tag")):
        made.refused(
            f"enc-chacha20-{what}-bit",
            f"a bit of the {what}",
            "tag_mismatch",
            enc="chacha20-poly1305",
            spoil={stream: flip(0)},
        )


def add_segments(made):
    whole = SEGMENT + 16
    changes = {
        "bit": ("a bit of the second segment", flip(whole)),
        "tag": ("a bit of the first tag", flip(whole - 1)),
        "swapped": ("two segments swapped", lambda d: d[whole : 2 * whole] + d[:whole] + d[2 * whole :]),
        "last-missing": ("the last segment missing", lambda d: d[: 2 * whole]),
        "first-missing": ("the first segment missing", lambda d: d[whole:]),
        "twice": ("the first segment twice", lambda d: d[:whole] + d),
        "cut": ("the last segment one byte short", lambda d: d[:-1]),
    }
    common = {"enc": "aes-gcm-stream", "payload": bytes(2 * SEGMENT + 3)}
    for name, (what, change) in changes.items():
        made.refused(f"stream-{name}", what, "tag_mismatch", spoil={0: change}, **common)
    made.refused("stream-salt", "another salt", "tag_mismatch", spoil={1: flip(0)}, **common)
    made.refused("stream-prefix", "another nonce prefix", "tag_mismatch", spoil={2: flip(6)}, **common)
    made.refused(
        "stream-manifest",
        "a manifest that was changed after sealing",
        "tag_mismatch",
        spoil={9: lambda d: d.replace(b"Scheme vectors", b"Scheme vandals")},
        **common,
    )
    made.refused(
        "stream-no-last", "no segment says it is the last", "tag_mismatch", flags=lambda *_: 0, **common
    )
    made.refused(
        "stream-all-last", "every segment says it is the last", "tag_mismatch", flags=lambda *_: 1, **common
    )
    made.refused("stream-counter-1", "segments counted from 1", "tag_mismatch", first_counter=1, **common)
    made.malformed(
        "stream-empty-last",
        "a last segment without a byte of payload",
        enc="aes-gcm-stream",
        payload=bytes(SEGMENT),
        spoil={0: lambda d: d + bytes(16)},
    )
    made.malformed(
        "stream-only-tag", "a payload of 16 bytes", enc="aes-gcm-stream", spoil={0: lambda _: bytes(16)}
    )
    for size in (0, 32768, 65535, 65537, 98304, 2097152):
        made.malformed(
            f"stream-segment-size-{size}",
            f"segments of {size} bytes",
            enc="aes-gcm-stream",
            edit=lambda document, size=size: document["payload"]["enc"]["aes-gcm-stream"].update(
                segment_size=size
            ),
        )
    made.malformed("stream-salt-31", "salt of 31 bytes", enc="aes-gcm-stream", spoil={1: lambda d: d[1:]})
    made.malformed(
        "stream-prefix-8", "nonce prefix of 8 bytes", enc="aes-gcm-stream", spoil={2: lambda d: d + b"."}
    )


def add_digests(made):
    for algorithm in ("sha256", "sha384", "sha512"):
        made.ok(
            f"dig-{algorithm}",
            f"{algorithm} of the payload in clear and of the package",
            **both("ed25519") | {"dig": algorithm, "package_dig": algorithm},
        )
        made.ok(
            f"dig-{algorithm}-ciphertext",
            f"{algorithm} of the ciphertext, the payload first in the map",
            payload_first=True,
            **both("ed25519") | {"dig": f"{algorithm}-ciphertext", "package_dig": algorithm},
        )
        made.refused(
            f"dig-{algorithm}-ciphertext-bit",
            f"another {algorithm} of the ciphertext",
            "digest_mismatch",
            payload_first=True,
            spoil={3: flip(0)},
            **both("ecdsa-p256") | {"dig": f"{algorithm}-ciphertext"},
        )
        made.malformed(
            f"dig-{algorithm}-short",
            f"{algorithm} one byte short",
            spoil={3: lambda d: d[1:]},
            **both("ed25519") | {"dig": algorithm},
        )
    made.ok(
        "dig-none-pure", "no digest: a pure signature is over SHA-256", **both("ed25519") | {"dig": "none"}
    )
    made.ok(
        "dig-other-than-signed",
        "a SHA-512 digest beside signatures over SHA-256",
        **both("ecdsa-p256") | {"dig": "sha512", "package_dig": "sha384"},
    )
    made.ok(
        "dig-ciphertext-other-than-signed",
        "a SHA-256 digest of the ciphertext beside signatures over SHA-384",
        payload_first=True,
        **both("ecdsa-p384") | {"dig": "sha256-ciphertext", "package_dig": "sha256"},
    )
    made.ok(
        "dig-ciphertext-manifest-first",
        "a digest of the ciphertext, the manifest first in the map",
        **both("rsa-pss") | {"dig": "sha256-ciphertext"},
    )
    made.refused(
        "dig-ciphertext-package-unsigned",
        "a signature over the ciphertext without one over the package",
        "package_unsigned",
        dig="sha256-ciphertext",
        package_sig=None,
    )
    made.malformed(
        "dig-package-ciphertext",
        "a package digest has no ciphertext",
        edit=lambda document: document["package"].update(dig={"sha256-ciphertext": {"data": 6}}),
    )


def add_signatures(made):
    for scheme in SCHEMES:
        made.ok(f"sig-{scheme}", f"payload and package signed with {scheme}", **both(scheme))
        made.ok(
            f"sig-{scheme}-ciphertext",
            f"ciphertext and package signed with {scheme}",
            payload_first=True,
            enc="aes-gcm-stream",
            **both(scheme) | {"dig": HASH_OF.get(scheme, "sha256") + "-ciphertext"},
        )
        made.refused(
            f"sig-{scheme}-bit",
            f"a bit of a {scheme} signature over the payload",
            "payload_signature_invalid",
            **both(scheme) | {"package_sig": None},
            spoil={4: flip(size_of(scheme) // 2)},
        )
        made.refused(
            f"sig-{scheme}-package-bit",
            f"a bit of a {scheme} signature over the package",
            "package_signature_invalid",
            **both(scheme),
            spoil={7: flip(size_of(scheme) // 2)},
        )
        made.refused(
            f"sig-{scheme}-zeros",
            f"a {scheme} signature of zeros",
            "payload_signature_invalid",
            **both(scheme) | {"package_sig": None},
            spoil={4: lambda data: bytes(len(data))},
        )
        made.malformed(
            f"sig-{scheme}-long",
            f"a {scheme} signature one byte too long",
            **both(scheme),
            spoil={4: lambda data: data + b"\0"},
        )
        other = SCHEMES[(SCHEMES.index(scheme) + 2) % len(SCHEMES)]
        made.refused(
            f"sig-{scheme}-other-key",
            f"{scheme} under a certificate for {other}",
            "signer_key_mismatch",
            **both(scheme),
            cert=("embedded-x509-pem", pem(LEAVES[other])),
        )
    for scheme in PURE:
        made.refused(
            f"sig-{scheme}-role",
            f"a {scheme} signature made for a package over a payload",
            "payload_signature_invalid",
            **both(scheme) | {"package_sig": None},
            role_of_payload="package",
        )
    for salt in (0, 20, 64):
        made.refused(
            f"sig-rsa-pss-salt-{salt}",
            f"RSA-PSS with a salt of {salt} bytes",
            "payload_signature_invalid",
            **both("rsa-pss") | {"package_sig": None},
            salt_length=salt,
        )
    made.malformed(
        "sig-rsa-pss-strength",
        "rsa-pss without key_strength",
        **both("rsa-pss"),
        edit=lambda document: document["payload"]["sig"]["rsa-pss"].pop("key_strength"),
    )
    made.ok(
        "sig-two-signers",
        "payload signed with ECDSA P-256, package with ML-DSA-65 under a certificate of its own",
        package_sig="ml-dsa-65",
        package_cert=("embedded-x509-der", der(LEAVES["ml-dsa-65"])),
    )


def add_certification(made):
    chain_leaf = certificate("Signer", PRIVATE["ecdsa-p256"].public_key(), "Scheme Middle", MIDDLE_KEY)
    for tag, write in (("pem", pem), ("der", der)):
        made.ok(
            f"cert-x509-{tag}", f"{tag.upper()}", cert=(f"embedded-x509-{tag}", write(LEAVES["ecdsa-p256"]))
        )
        made.ok(
            f"cert-chain-{tag}",
            f"a chain in {tag.upper()}",
            cert=(f"embedded-x509-{tag}", write(chain_leaf, MIDDLE)),
        )
        encoding = Encoding.PEM if tag == "pem" else Encoding.DER
        for scheme in SCHEMES:
            made.ok(
                f"cert-key-{tag}-{scheme}",
                f"a pinned bare {scheme} key in {tag.upper()}",
                **both(scheme),
                cert=(f"embedded-public-key-{tag}", spki(scheme, encoding)),
                verifier={"pinned_keys": [pin(scheme)]},
            )
        made.refused(
            f"cert-key-{tag}-unpinned",
            f"a bare key in {tag.upper()} that nobody pinned",
            "certificate_untrusted",
            cert=(f"embedded-public-key-{tag}", spki("ecdsa-p256", encoding)),
            verifier={"pinned_keys": [pin("ed25519")]},
        )
    made.refused(
        "cert-chain-broken",
        "a leaf without its issuer",
        "certificate_untrusted",
        cert=("embedded-x509-pem", pem(chain_leaf)),
    )
    made.refused(
        "cert-untrusted",
        "a certificate that signed itself",
        "certificate_untrusted",
        cert=(
            "embedded-x509-pem",
            pem(certificate("Self", PRIVATE["ecdsa-p256"].public_key(), "Self", STRANGER_KEY)),
        ),
    )
    made.malformed(
        "cert-der-is-pem",
        "PEM where the scheme says DER",
        cert=("embedded-x509-der", pem(LEAVES["ecdsa-p256"])),
    )
    made.malformed(
        "cert-key-is-x509",
        "a certificate where the scheme says bare key",
        cert=("embedded-public-key-der", der(LEAVES["ecdsa-p256"])),
    )
    target = {"target": {"domain": "example.com"}}
    own = {"device_certificates": {"example.com": "y-target.pem"}}
    made.ok("cert-target", "the device's own certificate", cert=(target, b""), verifier=own)
    made.refused(
        "cert-target-unknown", "a domain unknown to the device", "certificate_untrusted", cert=(target, b"")
    )
    made.refused(
        "cert-target-expired",
        "the device's own certificate expired",
        "certificate_expired",
        cert=(target, b""),
        verifier={"device_certificates": {"example.com": "y-target-expired.pem"}},
    )
    made.refused(
        "cert-target-other-key",
        "the device's certificate has another key",
        "signer_key_mismatch",
        cert=(target, b""),
        verifier={"device_certificates": {"example.com": "y-target-other.pem"}},
    )
    url = {"url": {"url": "https://certs.example.com/signer.pem"}}
    fetched = lambda name: {"fetched_certificates": {url["url"]["url"]: name}}  # noqa: E731
    made.ok(
        "cert-url",
        "a certificate by URL that the caller brings",
        cert=(url, b""),
        verifier=fetched("y-target.pem"),
    )
    made.refused(
        "cert-url-not-fetched",
        "a certificate by URL, never fetched",
        "certificate_untrusted",
        cert=(url, b""),
    )
    made.refused(
        "cert-url-untrusted",
        "a fetched certificate without a path to a root",
        "certificate_untrusted",
        cert=(url, b""),
        verifier=fetched("y-stranger.pem"),
    )


def add_policy(made):
    made.refused("policy-unsigned", "no signature at all", "unsigned", sig=None, package_sig=None)
    made.refused("policy-unencrypted", "payload in clear", "unencrypted", enc="none")
    made.refused(
        "policy-package-unsigned",
        "a package signature is required and missing",
        "package_unsigned",
        package_sig=None,
        verifier={"require_package_signature": True},
    )
    expired = leaf("ecdsa-p256", end=START + timedelta(days=1))
    later = leaf("ecdsa-p256", start=END - timedelta(days=1))
    made.refused(
        "policy-expired",
        "an expired certificate",
        "certificate_expired",
        cert=("embedded-x509-pem", pem(expired)),
    )
    made.refused(
        "policy-not-yet-valid",
        "a certificate of the future",
        "certificate_not_yet_valid",
        cert=("embedded-x509-pem", pem(later)),
    )
    made.refused(
        "policy-demo-key",
        "the reference tool's public demo key",
        "insecure_key",
        **both("rsa-pkcs1v15"),
        cert=("embedded-x509-pem", (FOLDER / "demo-certificate.pem").read_bytes()),
    )
    made.refused(
        "policy-package-expired",
        "a good payload signature, a package signature under an expired certificate",
        "certificate_expired",
        package_cert=("embedded-x509-pem", pem(expired)),
    )
    made.refused(
        "policy-map-incomplete",
        "the package signature leaves out the certificate",
        "map_incomplete",
        edit=lambda document: document["package"].update(map=[9, 0, 1, 2, 3, 4]),
    )


def vectors():
    made = Collection()
    for add in (add_encryption, add_segments, add_digests, add_signatures, add_certification, add_policy):
        add(made)
    return made


def main() -> None:
    """Write the vectors and the files that they are to be read with."""
    for old in FOLDER.glob("y-*"):
        old.unlink()
    for name, (what, outcome, code, recipe) in vectors().items():
        document = {"id": name, "what": what, "inspect": "malformed" if outcome == "malformed" else "ok"}
        document |= {"verify": outcome} | ({"code": code} if code else {})
        if outcome == "ok":
            document["plaintext_sha256"] = hashlib.sha256(recipe.payload).hexdigest()
        if recipe.verifier:
            document["verifier"] = recipe.verifier
        (FOLDER / f"{name}.cpk").write_bytes(build(recipe))
        (FOLDER / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    keys = {name: base64.b64encode(key).decode() for name, key in KEYS.items()}
    (FOLDER / "y-keys.json").write_text(json.dumps(keys, indent=1) + "\n")
    (FOLDER / "y-trust.pem").write_bytes(pem(ROOT))
    (FOLDER / "y-target.pem").write_bytes(pem(LEAVES["ecdsa-p256"]))
    (FOLDER / "y-target-other.pem").write_bytes(pem(LEAVES["ed25519"]))
    (FOLDER / "y-target-expired.pem").write_bytes(pem(leaf("ecdsa-p256", end=START + timedelta(days=1))))
    (FOLDER / "y-stranger.pem").write_bytes(pem(STRANGER))


if __name__ == "__main__":
    main()
