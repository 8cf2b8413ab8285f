"""Read a confidential package: a second reader, written from docs/spec/cpk-format.md alone.

    python read_cpk.py app.cpk --keys keys.json --trust trust.pem --out payload

It shares no code with the project; the standard library and ``cryptography`` are all it needs. It reads the
whole file into memory and favours being short. What it is for is to disagree: if specification, vectors and
the project's reader say the same, it says so, too.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import crypto
from crypto import Malformed, Refused
from structure import (
    DIGESTS,
    EMBEDDED,
    U32,
    certification_of,
    check_date,
    digest_of,
    encryption_of,
    index_of,
    integer_of,
    list_of,
    object_of,
    read_frame,
    signing_of,
    strict_json,
    text_of,
)


@dataclass(kw_only=True)
class Verifier:
    """What the reader is told: keys by name, roots, and the fields of a vector's ``verifier``."""

    keys: dict[str, bytes]
    roots: list[Any]
    at: datetime
    pinned_keys: list[str] = field(default_factory=list)
    device_certificates: dict[str, bytes] = field(default_factory=dict)
    fetched_certificates: dict[str, bytes] = field(default_factory=dict)
    require_package_signature: bool = False


class Package:
    """A well-formed package (sections 3 to 6).

    Raises:
        Malformed: It is none.
    """

    def __init__(self, data: bytes) -> None:
        self.streams, self.manifest_index = read_frame(data)
        text = self.stream(self.manifest_index)
        if not 1 <= len(text) <= 1 << 20:
            raise Malformed("manifest size")
        document = strict_json(text)
        text_of(document, "cp-id", identifier=True)
        text_of(document, "cp-name")
        text_of(document, "cp-vendor")
        self.payload, self.section = object_of(document, "payload"), object_of(document, "package")
        self._check_payload()
        self._check_package()
        self._check_uses()

    def stream(self, index: int) -> bytes:
        return self.streams[index]

    @property
    def stored(self) -> bytes:
        return self.stream(self.payload["data"])

    def _check_payload(self) -> None:
        payload, count = self.payload, len(self.streams)
        index_of(payload, "data", count)
        target, version = object_of(payload, "target"), object_of(payload, "ver")
        text_of(target, "arch")
        text_of(target, "os")
        for name in ("maj", "min", "rev"):
            integer_of(version, name, 0, U32)
        check_date(text_of(version, "date"))
        self.enc = encryption_of(payload, count)
        self.dig = digest_of(payload, count, [*DIGESTS, *(f"{name}-ciphertext" for name in DIGESTS)])
        self.sig = signing_of(payload, count)
        self.cert = certification_of(payload, count)

    def _check_package(self) -> None:
        section, count = self.section, len(self.streams)
        self.map = list_of(section, "map")
        for place in range(len(self.map)):
            index_of({"map": self.map[place]}, "map", count)
        if len(set(self.map)) != len(self.map):
            raise Malformed("map: a stream stands twice")
        self.package_dig = digest_of(section, count, [*DIGESTS])
        self.package_sig = signing_of(section, count)
        self.package_cert = certification_of(section, count)
        layout = object_of(section, "layout") if "layout" in section else {}
        for name in layout:
            if not re.fullmatch("0|[1-9][0-9]*", name, re.ASCII) or int(name) >= count:
                raise Malformed("layout: no stream")
            if integer_of(layout, name, 0, 2**63) != len(self.stream(int(name))):
                raise Malformed("layout: another size")

    def named(self) -> list[tuple[str, int, int, int]]:
        """Return each use of a stream: what for, index, least and most bytes."""
        uses = [("payload", self.payload["data"], 1, 2**63)]
        if self.enc:
            tag, fields = self.enc
            if tag == "aes-gcm-stream":
                uses += [("salt", fields["salt"], 32, 32), ("prefix", fields["prefix"], 7, 7)]
            else:
                uses += [("nonce", fields["nonce"], 12, 12), ("tag", fields["tag"], 16, 16)]
        for which, dig, sig, cert in self.sections():
            if dig:
                size = DIGESTS[dig[0].removesuffix("-ciphertext")]
                uses.append((f"{which} digest", dig[1]["data"], size, size))
            if sig:
                size = crypto.signature_size(*sig)
                uses.append((f"{which} signature", sig[1]["data"], size, size))
            if cert and cert[0] in EMBEDDED:
                uses.append((f"certificate as {cert[0]}", cert[1]["data"], 1, 1 << 16))
        return uses

    def sections(self) -> list[tuple[str, Any, Any, Any]]:
        return [
            ("payload", self.dig, self.sig, self.cert),
            ("package", self.package_dig, self.package_sig, self.package_cert),
        ]

    def _check_uses(self) -> None:
        used = {self.manifest_index: "manifest"}
        for use, index, low, high in self.named():
            if used.setdefault(index, use) != use:
                raise Malformed(f"stream {index}: two uses")
            if not low <= len(self.stream(index)) <= high:
                raise Malformed(f"stream {index}: length")
            if use.startswith("package ") and index in self.map:
                raise Malformed("map: the package's own digest or signature")
        if self.enc:
            crypto.check_stored_size(*self.enc, len(self.stored))
        self.certificates: dict[int, list[Any]] = {}
        self.public_keys: dict[int, bytes] = {}
        for which, _, sig, cert in self.sections():
            if sig and not cert:
                raise Malformed(f"{which}: a signature without a certificate")
            if cert and EMBEDDED.get(cert[0]) == "chain":
                index = cert[1]["data"]
                self.certificates[index] = crypto.load_chain(self.stream(index), pem=cert[0].endswith("pem"))
            elif cert and EMBEDDED.get(cert[0]) == "key":
                index = cert[1]["data"]
                self.public_keys[index] = crypto.load_spki(self.stream(index), pem=cert[0].endswith("pem"))


def open_package(package: Package, verifier: Verifier) -> bytes:
    """Return the payload in clear if everything holds (section 7, its numbered steps).

    Raises:
        Refused: Something does not.
    """
    of_ciphertext = package.dig is not None and package.dig[0].endswith("-ciphertext")
    _check_required(package, verifier, of_ciphertext=of_ciphertext)  # step 1
    if package.package_dig or package.package_sig:  # step 2
        named = {index for use, index, _, _ in package.named() if not use.startswith("package ")}
        if not named | {package.manifest_index} <= set(package.map):
            raise Refused("map_incomplete")
    keys = {  # step 3
        which: _signer(package, sig, cert, verifier) for which, _, sig, cert in package.sections() if sig
    }
    clear = _decrypt(package, verifier)  # steps 4 to 6
    mapped = b"".join(package.stream(index) for index in package.map)
    for which, dig, sig, _ in package.sections():  # steps 7 and 8
        prefix = "" if which == "payload" else "package_"
        covered = mapped if which == "package" else package.stored if of_ciphertext else clear
        algorithm = dig[0].removesuffix("-ciphertext") if dig else "sha256"
        digest = hashlib.new(algorithm, covered).digest()
        if dig and digest != package.stream(dig[1]["data"]):
            raise Refused(f"{prefix}digest_mismatch")
        if sig:
            signature = package.stream(sig[1]["data"])
            if not crypto.holds(keys[which], sig, signature, covered=covered, digest=digest, role=which):
                raise Refused(f"{which}_signature_invalid")
    return clear


def _check_required(package: Package, verifier: Verifier, *, of_ciphertext: bool) -> None:
    if not package.enc:
        raise Refused("unencrypted")
    if not package.sig:
        raise Refused("unsigned")
    if not package.package_sig and (of_ciphertext or verifier.require_package_signature):
        raise Refused("package_unsigned")


def _signer(package: Package, sig: Any, cert: Any, verifier: Verifier) -> Any:
    """Return the key that a signature has to hold under."""
    tag, fields = cert
    if EMBEDDED.get(tag) == "key":
        spki = package.public_keys[fields["data"]]
        if hashlib.sha256(spki).hexdigest() not in verifier.pinned_keys:
            raise Refused("certificate_untrusted")
        return crypto.signing_key(spki, sig)
    given, roots = None, verifier.roots
    if tag == "target":
        given = verifier.device_certificates.get(fields["domain"])
    elif tag == "url":
        given = verifier.fetched_certificates.get(fields["url"])
    else:
        given = package.stream(fields["data"])
    if given is None:
        raise Refused("certificate_untrusted")
    chain = crypto.load_chain(given, pem=b"-----BEGIN " in given)
    if tag == "target":
        chain, roots = chain[:1], chain[:1]
    key = crypto.signing_key(crypto.spki_of(chain[0]), sig)
    crypto.check_path(chain, roots, verifier.at)
    return key


def _decrypt(package: Package, verifier: Verifier) -> bytes:
    tag, fields = package.enc
    key = verifier.keys.get(fields["key_name"])
    if key is None:
        raise Refused("key_unavailable")
    if len(key) * 8 != fields.get("key_strength", 256):
        raise Refused("key_mismatch")
    if tag == "aes-gcm-stream":
        salt, prefix = package.stream(fields["salt"]), package.stream(fields["prefix"])
        associated = hashlib.sha256(package.stream(package.manifest_index)).digest()
        size = fields["segment_size"]
        return crypto.open_segments(
            key, package.stored, size, salt=salt, prefix=prefix, associated=associated
        )
    return crypto.open_whole(
        tag, key, package.stream(fields["nonce"]), package.stored, package.stream(fields["tag"])
    )


def load_keys(path: Path) -> dict[str, bytes]:
    """Return a key store's keys; the padding of their base64 may be missing."""
    return {name: base64.b64decode(text + "==") for name, text in json.loads(path.read_text()).items()}


def main() -> None:
    """Read one package."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--keys", type=Path, required=True, help="JSON object, key name to base64 key")
    parser.add_argument("--trust", type=Path, required=True, help="PEM roots")
    parser.add_argument("--out", type=Path, help="where the payload goes")
    options = parser.parse_args()
    keys = load_keys(options.keys)
    roots = crypto.load_chain(options.trust.read_bytes(), pem=True)
    try:
        package = Package(options.file.read_bytes())
        clear = open_package(package, Verifier(keys=keys, roots=roots, at=datetime.now(UTC)))
    except (Malformed, Refused) as error:
        sys.exit(f"{type(error).__name__.lower()}: {error}")
    if options.out is not None:
        options.out.write_bytes(clear)
    print(f"ok: {len(clear)} bytes, SHA-256 {hashlib.sha256(clear).hexdigest()}")  # noqa: T201 - the result


if __name__ == "__main__":
    main()
