"""The bytes and the JSON of a confidential package (specification, sections 3 to 5), strictly read."""

from __future__ import annotations

import itertools
import json
import re
import struct
import unicodedata
from datetime import UTC, datetime
from typing import Any

from crypto import SIGNATURES, Malformed

DIGESTS = {"sha256": 32, "sha384": 48, "sha512": 64}
EMBEDDED = {
    "embedded-x509-pem": "chain",
    "embedded-x509-der": "chain",
    "embedded-public-key-pem": "key",
    "embedded-public-key-der": "key",
}
U32 = 2**32 - 1
DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.\d{1,9})?( UTC|[Zz]|[+-]\d\d:?[0-5]\d)", re.ASCII
)


def read_frame(data: bytes) -> tuple[list[bytes], int]:
    if len(data) < 16:
        raise Malformed("header")
    magic, version, flags, count, manifest, kind, manifest_version = struct.unpack_from("<IHHHHHH", data)
    if (magic, version, flags, kind, manifest_version) != (0x0ECCF00D, 1, 0, 1, 1):
        raise Malformed("header fields")
    origin = 16 + 16 * count
    if not 2 <= count <= 64 or manifest >= count or len(data) < origin:
        raise Malformed("stream count, manifest index or table")
    entries = [struct.unpack_from("<QQ", data, 16 + 16 * index) for index in range(count)]
    if entries[0][0] != 0 or any(offset + size > len(data) - origin for offset, size in entries):
        raise Malformed("stream table")
    filled = sorted((offset, offset + size) for offset, size in entries if size)
    if any(after[0] < before[1] for before, after in itertools.pairwise(filled)):
        raise Malformed("streams overlap")
    return [data[origin + offset : origin + offset + size] for offset, size in entries], manifest


def strict_json(data: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    def no_constant(text: str) -> None:
        raise ValueError(text)

    try:
        document = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=no_constant)
        _check_nesting(document, 1)
    except (ValueError, RecursionError) as error:
        raise Malformed("manifest: no strict JSON") from error
    if not isinstance(document, dict):
        raise Malformed("manifest: no object")
    return document


def _check_nesting(value: Any, depth: int) -> None:
    """Refuse what nests too deep, and strings that are no Unicode text (lone surrogates)."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict | list):
        if depth > 32:
            raise ValueError("nested too deep")
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_nesting(inner, depth + 1)


def object_of(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    if not isinstance(value, dict):
        raise Malformed(f"{name}: no object")
    return value


def list_of(fields: dict[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list):
        raise Malformed(f"{name}: no array")
    return value


def text_of(fields: dict[str, Any], name: str, *, identifier: bool = False) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > (256 if identifier else 1024) or "\0" in value:
        raise Malformed(f"{name}: no text")
    if identifier and (not value or any(unicodedata.category(each) == "Cc" for each in value)):
        raise Malformed(f"{name}: no identifier")
    return value


def integer_of(fields: dict[str, Any], name: str, low: int, high: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not low <= value <= high:
        raise Malformed(f"{name}: no integer from {low} to {high}")
    return value


def index_of(fields: dict[str, Any], name: str, count: int) -> int:
    return integer_of(fields, name, 0, count - 1)


def check_one_of(fields: dict[str, Any], name: str, allowed: tuple[int, ...]) -> None:
    if integer_of(fields, name, 0, U32) not in allowed:
        raise Malformed(f"{name}: none of {allowed}")


def check_date(text: str) -> None:
    match = DATE.fullmatch(text)
    if match is None:
        raise Malformed("date")
    try:
        zone = match[3] if match[3][0] in "+-" else "+00:00"
        datetime.fromisoformat(f"{match[1]}T{match[2]}{zone}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Malformed("date") from error


def scheme_of(section: dict[str, Any], name: str) -> tuple[str, dict[str, Any]] | None:
    value = section.get(name)
    if value in ("none", {"none": None}):
        return None
    if not isinstance(value, dict) or len(value) != 1:
        raise Malformed(f"{name}: no scheme")
    (tag,) = value
    return tag, object_of(value, tag)


def encryption_of(section: dict[str, Any], count: int) -> tuple[str, dict[str, Any]] | None:
    if (scheme := scheme_of(section, "enc")) is None:
        return None
    tag, fields = scheme
    streams = {"aes-gcm": "nonce tag", "chacha20-poly1305": "nonce tag", "aes-gcm-stream": "salt prefix"}
    if tag not in streams:
        raise Malformed("enc: unknown tag")
    for name in streams[tag].split():
        index_of(fields, name, count)
    text_of(fields, "key_name", identifier=True)
    if "key_version" in fields:
        integer_of(fields, "key_version", 1, U32)
    if tag != "chacha20-poly1305":
        check_one_of(fields, "key_strength", (128, 192, 256))
    else:
        fields.pop("key_strength", None)  # a field that this scheme does not know
    if tag == "aes-gcm-stream":
        check_one_of(fields, "segment_size", tuple(1 << bits for bits in range(16, 21)))
    return tag, fields


def digest_of(section: dict[str, Any], count: int, known: list[str]) -> tuple[str, dict[str, Any]] | None:
    if (scheme := scheme_of(section, "dig")) is not None:
        if scheme[0] not in known:
            raise Malformed("dig: unknown tag")
        index_of(scheme[1], "data", count)
    return scheme


def signing_of(section: dict[str, Any], count: int) -> tuple[str, dict[str, Any]] | None:
    if (scheme := scheme_of(section, "sig")) is not None:
        if scheme[0] not in SIGNATURES:
            raise Malformed("sig: unknown tag")
        index_of(scheme[1], "data", count)
        if scheme[0].startswith("rsa-"):
            check_one_of(scheme[1], "key_strength", (2048, 3072, 4096))
    return scheme


def certification_of(section: dict[str, Any], count: int) -> tuple[str, dict[str, Any]] | None:
    if (scheme := scheme_of(section, "cert")) is not None:
        tag, fields = scheme
        if tag in EMBEDDED:
            index_of(fields, "data", count)
        elif tag == "target":
            text_of(fields, "domain")
        elif tag == "url":
            text_of(fields, "url")
        else:
            raise Malformed("cert: unknown tag")
    return scheme
