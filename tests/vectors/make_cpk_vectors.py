"""Make the ``x-…`` vectors of ``tests/vectors/cpk`` anew; run by hand, with fresh keys each time.

The bytes are put together with ``struct`` and ``json`` alone: what the vectors judge has no part in them.
"""

from __future__ import annotations

import base64
import copy
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
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FOLDER = Path(__file__).parent / "cpk"
PAYLOAD = bytes(range(256)) * 4
START = datetime(2025, 11, 1, tzinfo=UTC)
END = datetime(2046, 10, 27, tzinfo=UTC)
DEMO_CERTIFICATE = FOLDER / "demo-certificate.pem"


@dataclass
class Draft:
    """A package before it is written: streams, manifest, and how they lie in the file."""

    streams: list[bytes]
    manifest: dict[str, Any]
    manifest_index: int
    text: bytes | None = None
    gap: int = 0
    shift: int = 0
    extra: list[bytes] = field(default_factory=list)
    table: dict[int, tuple[int, int]] = field(default_factory=dict)

    def encode(self) -> bytes:
        text = (
            self.text if self.text is not None else json.dumps(self.manifest, separators=(",", ":")).encode()
        )
        streams = [*self.streams, *self.extra]
        streams[self.manifest_index] = text
        header = struct.pack("<IHHHHHH", 0x0ECCF00D, 1, 0, len(streams), self.manifest_index, 1, 1)
        table, body, offset = b"", b"", self.shift
        body += b"\xee" * self.shift
        for index, stream in enumerate(streams):
            where = self.table.get(index, (offset, len(stream)))
            table += struct.pack("<QQ", *where)
            body += stream + b"\xee" * self.gap
            offset += len(stream) + self.gap
        return header + table + body


def read(name: str) -> Draft:
    """Return one of the given vectors as a draft."""
    data = (FOLDER / f"{name}.cpk").read_bytes()
    _, _, _, count, manifest_index, _, _ = struct.unpack_from("<IHHHHHH", data)
    origin = 16 + 16 * count
    streams = []
    for index in range(count):
        offset, size = struct.unpack_from("<QQ", data, 16 + 16 * index)
        streams.append(data[origin + offset : origin + offset + size])
    return Draft(streams=streams, manifest=json.loads(streams[manifest_index]), manifest_index=manifest_index)


def certificate(subject, key, issuer, issuer_key, *, ca=False, start=START, end=END):
    name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])  # noqa: E731
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=ca,
                crl_sign=ca,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .sign(issuer_key, hashes.SHA256())
    )


def pem(*chain: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in chain)


ROOT_KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = certificate("Extra Root", ROOT_KEY, "Extra Root", ROOT_KEY, ca=True)
SIGNER_KEY = rsa.generate_private_key(65537, 2048)
SIGNER = certificate("Extra Signer", SIGNER_KEY, "Extra Root", ROOT_KEY)
KEYS: dict[str, str] = {}


def sign(key: rsa.RSAPrivateKey, data: bytes) -> bytes:
    return key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def sealed(
    app: str, *, bits: int = 256, key: rsa.RSAPrivateKey = SIGNER_KEY, chain: bytes | None = None
) -> Draft:
    """Return a package of its own, signed in its payload, streams in the reference tool's order."""
    class_key, nonce = os.urandom(bits // 8), os.urandom(12)
    KEYS[app] = base64.b64encode(class_key).decode()
    ciphertext = AESGCM(class_key).encrypt(nonce, PAYLOAD, None)
    draft = read("v01-reference-order")
    draft.streams = [
        ciphertext[:-16],
        nonce,
        ciphertext[-16:],
        hashlib.sha256(PAYLOAD).digest(),
        sign(key, PAYLOAD),
        chain if chain is not None else pem(SIGNER),
        b"",
    ]
    draft.manifest["cp-id"] = app
    draft.manifest["payload"]["enc"]["aes-gcm"] |= {"key_name": app, "key_strength": bits}
    draft.manifest["payload"]["sig"]["rsa-pkcs1v15"]["key_strength"] = key.key_size
    return draft


def package_signed(app: str, *, key: rsa.RSAPrivateKey, chain: bytes, digest_only: bool = False) -> Draft:
    """Return a package whose whole is signed under a certificate of its own, stream 8."""
    draft = sealed(app)
    draft.manifest_index = 9
    mapped = [9, 0, 1, 2, 3, 4, 5] if digest_only else [9, 0, 1, 2, 3, 4, 5, 8]
    draft.manifest["package"] = {
        "map": mapped,
        "dig": {"sha256": {"data": 6}},
        "sig": "none" if digest_only else {"rsa-pkcs1v15": {"key_strength": key.key_size, "data": 7}},
        "cert": "none" if digest_only else {"embedded-x509-pem": {"data": 8}},
    }
    text = json.dumps(draft.manifest, separators=(",", ":")).encode()
    streams = [*draft.streams[:6], b"", b"", chain, text]
    covered = b"".join(streams[index] for index in mapped)
    streams[6], streams[7] = hashlib.sha256(covered).digest(), sign(key, covered)
    draft.streams, draft.text = streams, text
    return draft


def nested(depth: int) -> Any:
    """Return arrays nested so deep."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def edited(path: str, value: Any, *, base: str = "v01-reference-order") -> Draft:
    """Return a given vector with one value of its manifest replaced, or added."""
    draft = read(base)
    *parents, last = path.split("/")
    place: Any = draft.manifest
    for parent in parents:
        place = place[parent]
    place[last] = value
    return draft


def text_edited(old: str, new: str) -> Draft:
    """Return a given vector with a piece of its manifest's text replaced."""
    draft = read("v01-reference-order")
    text = draft.streams[draft.manifest_index].decode()
    assert old in text
    draft.text = text.replace(old, new, 1).encode()
    return draft


def changed(draft: Draft, **values: Any) -> Draft:
    for name, value in values.items():
        setattr(draft, name, value)
    return draft


def with_stream(draft: Draft, index: int, data: bytes) -> Draft:
    draft.streams[index] = data
    return draft


class Collection(dict[str, tuple[str, str, str, Draft]]):
    """Vectors by id: what each shows, what inspecting and verifying must say, and the package."""

    def valid(self, name: str, what: str, draft: Draft) -> None:
        self[f"x-{name}"] = (what, "ok", "ok", draft)

    def refused(self, name: str, what: str, draft: Draft) -> None:
        self[f"x-{name}"] = (what, "ok", "refused", draft)

    def malformed(self, name: str, what: str, draft: Draft) -> None:
        self[f"x-{name}"] = (what, "malformed", "malformed", draft)


def add_frame_vectors(made: Collection) -> None:
    made.valid("gaps", "gaps between the streams", changed(read("v01-reference-order"), gap=8))
    made.valid(
        "unreferenced", "a stream that nothing names", changed(read("v01-reference-order"), extra=[b"spare"])
    )
    made.valid(
        "empty-unreferenced",
        "an empty stream that nothing names",
        changed(read("v01-reference-order"), extra=[b""]),
    )
    made.valid("streams-64", "64 streams", changed(read("v01-reference-order"), extra=[b"."] * 57))
    made.malformed("streams-65", "65 streams", changed(read("v01-reference-order"), extra=[b"."] * 58))
    made.malformed(
        "stream-0-offset", "stream 0 not at the origin", changed(read("v01-reference-order"), shift=8)
    )
    made.malformed(
        "u64-overflow",
        "offset and size add up past 2^64",
        changed(read("v01-reference-order"), table={2: (2**64 - 8, 16)}),
    )
    made.malformed(
        "same-stream",
        "two entries for the same bytes",
        changed(read("v01-reference-order"), table={2: (996, 16)}),
    )
    made.malformed(
        "manifest-too-large",
        "manifest of 1 MiB and one byte",
        changed(text_edited("{", "{" + " " * (1 << 20)), gap=0),
    )


def add_json_vectors(made: Collection) -> None:
    made.malformed(
        "duplicate-name", "a name twice in one object", text_edited('"cp-name"', '"cp-name":"A","cp-name"')
    )
    made.malformed("nesting-33", "nested deeper than 32", edited("x-deep", nested(32)))
    made.valid("nesting-32", "nested 32 deep", edited("x-deep", nested(31)))
    made.valid(
        "trailing-white-space", "white space after the document", text_edited('"none"}}', '"none"}}\r\n\t ')
    )
    made.malformed(
        "index-exponent", "stream index 3e0", text_edited('"sha256":{"data":3}', '"sha256":{"data":3e0}')
    )
    made.malformed("index-true", "stream index true", edited("payload/dig/sha256/data", value=True))


def add_scheme_vectors(made: Collection) -> None:
    made.valid("none-null", "none as a variant with null", edited("package/dig", {"none": None}))
    made.malformed("none-object", "none as a variant with an object", edited("package/dig", {"none": {}}))
    made.malformed("scheme-empty", "scheme without a tag", edited("payload/dig", {}))
    made.malformed("scheme-null", "scheme null", edited("payload/enc", None))
    made.malformed(
        "two-tags",
        "scheme with two tags",
        edited("payload/dig", {"sha256": {"data": 3}, "sha512": {"data": 3}}),
    )
    made.malformed(
        "rsa-1024", "signature strength 1024", edited("payload/sig/rsa-pkcs1v15/key_strength", 1024)
    )
    made.malformed(
        "signature-size",
        "signature shorter than its strength",
        edited("payload/sig/rsa-pkcs1v15/key_strength", 3072),
    )
    made.valid("key-version", "class key version 3", edited("payload/enc/aes-gcm/key_version", 3))
    made.malformed("key-version-0", "class key version 0", edited("payload/enc/aes-gcm/key_version", 0))
    made.malformed(
        "two-roles",
        "one stream as payload and package digest",
        edited("package/dig", {"sha256": {"data": 3}}),
    )
    made.malformed(
        "map-own-signature",
        "the map holds its own signature",
        edited("package/map", [8, 0, 1, 2, 3, 4, 5, 7], base="v18-package-signed"),
    )


def add_description_vectors(made: Collection) -> None:
    made.malformed("id-empty", "cp-id empty", edited("cp-id", ""))
    made.malformed("id-257", "cp-id of 257 characters", edited("cp-id", "a" * 257))
    made.valid("id-256", "cp-id of 256 characters", edited("cp-id", "a" * 256))
    made.valid(
        "id-path", "cp-id that looks like a path: never used as one", edited("cp-id", "../../etc/passwd")
    )
    made.malformed("id-escape", "ESC in cp-id", edited("cp-id", "\x1b[2J"))
    made.valid("name-empty", "cp-name empty", edited("cp-name", ""))
    made.malformed("name-nul", "NUL in cp-name", edited("cp-name", "a\0b"))
    made.valid(
        "date-9", "nine fraction digits", edited("payload/ver/date", "2026-10-05 12:52:37.489525123 UTC")
    )
    made.valid(
        "date-offset", "RFC 3339 with an offset", edited("payload/ver/date", "2026-10-05T14:52:37.5+02:00")
    )
    made.malformed("date-february", "30 February", edited("payload/ver/date", "2026-02-30 12:00:00 UTC"))
    made.malformed("date-hour", "hour 25", edited("payload/ver/date", "2026-10-05T25:00:00Z"))
    layout = {str(index): len(stream) for index, stream in enumerate(read("v01-reference-order").streams[:6])}
    made.valid("layout", "layout as the table", edited("package/layout", layout))
    made.malformed("layout-size", "layout with another size", edited("package/layout", layout | {"0": 999}))
    made.malformed(
        "layout-index", "layout for a stream that is not there", edited("package/layout", {"7": 1})
    )


def add_encryption_vectors(made: Collection) -> None:
    made.valid("aes-128", "AES-128", sealed("x-aes-128", bits=128))
    made.valid("aes-192", "AES-192", sealed("x-aes-192", bits=192))
    made.refused(
        "aes-strength",
        "a key of 256 bits where the manifest says 128",
        edited("payload/enc/aes-gcm/key_strength", 128),
    )
    made.refused("key-name", "key_name that is no key name", edited("payload/enc/aes-gcm/key_name", "a/b"))
    plain = sealed("x-unencrypted")
    plain.manifest["payload"]["enc"] = "none"
    made.refused("unencrypted", "payload in clear", with_stream(plain, 0, PAYLOAD))
    loose = sealed("x-key-loose")
    KEYS["x-key-loose"] = KEYS["x-key-loose"].rstrip("=")[:20] + " \n" + KEYS["x-key-loose"].rstrip("=")[20:]
    made.valid("key-loose", "base64 in the key store with white space and without padding", loose)


def add_signature_vectors(made: Collection) -> None:
    made.valid("digest-none", "signature without digest", edited("payload/dig", "none"))
    made.refused("certificate-only", "certificate without signature", edited("payload/sig", "none"))
    made.refused(
        "certificate-target",
        "certificate known to the target",
        edited("payload/cert", {"target": {"domain": "example.com"}}),
    )
    made.malformed(
        "der-is-pem",
        "PEM where the scheme says DER",
        edited("payload/cert", {"embedded-x509-der": {"data": 5}}),
    )
    spki = SIGNER_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    bare = sealed("x-public-key", chain=spki)
    bare.manifest["payload"]["cert"] = {"embedded-public-key-pem": {"data": 5}}
    made.refused("public-key", "bare public key", bare)
    made.malformed(
        "public-key-garbage", "public key stream is no key", with_stream(copy.deepcopy(bare), 5, b"no key")
    )
    wide = edited("payload/sig/rsa-pkcs1v15/key_strength", 4096)
    made.refused(
        "certificate-strength",
        "certificate of 2048 bits, signature of 4096",
        with_stream(wide, 4, b"\1" * 512),
    )
    big = rsa.generate_private_key(65537, 3072)
    made.valid(
        "rsa-3072",
        "RSA-3072 signature",
        sealed(
            "x-rsa-3072", key=big, chain=pem(certificate("Extra Signer 3072", big, "Extra Root", ROOT_KEY))
        ),
    )
    middle_key = ec.generate_private_key(ec.SECP256R1())
    middle = certificate("Extra Intermediate", middle_key, "Extra Root", ROOT_KEY, ca=True)
    leaf = certificate("Extra Signer", SIGNER_KEY, "Extra Intermediate", middle_key)
    made.valid("chain", "leaf and intermediate", sealed("x-chain", chain=pem(leaf, middle)))
    made.refused("chain-broken", "leaf without its intermediate", sealed("x-chain-broken", chain=pem(leaf)))
    future = certificate("Extra Signer", SIGNER_KEY, "Extra Root", ROOT_KEY, start=END - timedelta(days=1))
    made.refused("not-yet-valid", "certificate not valid yet", sealed("x-not-yet-valid", chain=pem(future)))
    curve_key = ec.generate_private_key(ec.SECP256R1())
    curve = certificate("Extra Signer EC", curve_key, "Extra Root", ROOT_KEY)
    made.refused("certificate-ec", "certificate with an EC key", sealed("x-certificate-ec", chain=pem(curve)))
    made.refused(
        "demo-key",
        "the reference tool's public demo key",
        sealed("x-demo-key", chain=DEMO_CERTIFICATE.read_bytes()),
    )


def add_package_vectors(made: Collection) -> None:
    other_key = rsa.generate_private_key(65537, 2048)
    other = certificate("Extra Packager", other_key, "Extra Root", ROOT_KEY)
    made.valid(
        "package-signer",
        "package signed under a certificate of its own",
        package_signed("x-package-signer", key=other_key, chain=pem(other)),
    )
    self_made = certificate("Extra Packager", other_key, "Extra Packager", other_key)
    made.refused(
        "package-untrusted",
        "package signed under a certificate that nothing trusts",
        package_signed("x-package-untrusted", key=other_key, chain=pem(self_made)),
    )
    made.valid(
        "package-digest",
        "package digest without signature",
        package_signed("x-package-digest", key=other_key, chain=b".", digest_only=True),
    )
    wrong = package_signed("x-package-digest-wrong", key=other_key, chain=b".", digest_only=True)
    made.refused(
        "package-digest-wrong", "package digest that does not match", with_stream(wrong, 6, bytes(32))
    )
    for name, mapped in (
        ("empty", []),
        ("no-manifest", [0, 1, 2, 3, 4, 5]),
        ("no-nonce", [8, 0, 2, 3, 4, 5]),
    ):
        what = f"package signed over the map {mapped}"
        made.refused(f"map-{name}", what, edited("package/map", mapped, base="v18-package-signed"))


def vectors() -> Collection:
    made = Collection()
    add_frame_vectors(made)
    add_json_vectors(made)
    add_scheme_vectors(made)
    add_description_vectors(made)
    add_encryption_vectors(made)
    add_signature_vectors(made)
    add_package_vectors(made)
    return made


def main() -> None:
    """Write the vectors, ``x-keys.json`` and ``x-trust.pem``."""
    for old in FOLDER.glob("x-*"):
        old.unlink()
    given = json.loads((FOLDER / "keys.json").read_text())
    borrowed = json.loads((FOLDER / "v01-reference-order.json").read_text())["plaintext_sha256"]
    own = hashlib.sha256(PAYLOAD).hexdigest()
    for name, (what, inspect, verify, draft) in vectors().items():
        encryption = draft.manifest["payload"]["enc"]
        key_name = encryption["aes-gcm"]["key_name"] if isinstance(encryption, dict) else None
        document = {"id": name, "what": what, "inspect": inspect, "verify": verify}
        if verify == "ok":
            document["plaintext_sha256"] = borrowed if key_name in given else own
        if key_name in given:
            KEYS[key_name] = given[key_name]
        (FOLDER / f"{name}.cpk").write_bytes(draft.encode())
        (FOLDER / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    (FOLDER / "x-keys.json").write_text(json.dumps(KEYS, indent=1) + "\n")
    (FOLDER / "x-trust.pem").write_bytes((FOLDER / "trust.pem").read_bytes() + pem(ROOT))


if __name__ == "__main__":
    main()
