"""The manifest: strict where it must be, tolerant where the reference is, and clear about what is wrong."""

import io
import json
import struct
from datetime import UTC, datetime

import pytest

from shared.cpk.manifest import Role, encode_manifest, format_date, parse_date, parse_manifest
from shared.cpk.package import inspect_package
from shared.cpk.scheme_json import encode_scheme
from shared.cpk.schemes import (
    CertificateUrl,
    EmbeddedCertificate,
    EmbeddedPublicKey,
    Encoding,
    PreSharedCertificate,
)
from shared.errors import FormatError

ENCRYPTION = "none, aes-gcm, chacha20-poly1305, aes-gcm-stream"
DIGEST = "none, sha256, sha384, sha512"
OF_CIPHERTEXT = "sha256-ciphertext, sha384-ciphertext, sha512-ciphertext"
EMBEDDED = "embedded-x509-pem, embedded-public-key-pem, embedded-x509-der, embedded-public-key-der"


def complaint(data):
    with pytest.raises(FormatError) as caught:
        inspect_package(io.BytesIO(data), len(data))
    return str(caught.value)


def place_of_manifest(data):
    (offset,) = struct.unpack_from("<Q", data, 144)
    return f"(the manifest is stream 8 at offset {160 + offset})"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("cp-id", ..., "manifest /cp-id: expected a value, found no such field"),
        ("cp-id", "", "manifest /cp-id: expected 1 to 256 characters, none a control character, found ''"),
        ("cp-name", 7, "manifest /cp-name: expected text of at most 1024 characters without NUL, found 7"),
        ("payload", [], "manifest /payload: expected an object, found an array"),
        ("payload/data", 9, "manifest /payload/data: expected a stream index from 0 to 8, found 9"),
        ("payload/data", True, "manifest /payload/data: expected a stream index from 0 to 8, found true"),
        ("payload/data", 0.0, "manifest /payload/data: expected a stream index from 0 to 8, found 0.0"),
        ("payload/data", None, "manifest /payload/data: expected a stream index from 0 to 8, found null"),
        (
            "payload/data",
            10**99,
            "manifest /payload/data: expected a stream index from 0 to 8, found a number of 100 digits",
        ),
        (
            "payload/ver/maj",
            2**32,
            "manifest /payload/ver/maj: expected an integer from 0 to 4294967295, found 4294967296",
        ),
        (
            "payload/ver/date",
            "2026-02-30 00:00:00 UTC",
            (
                "manifest /payload/ver/date: expected a date such as 2026-10-05 12:52:37.489525 UTC or "
                "2026-10-05T12:52:37Z, found '2026-02-30 00:00:00 UTC'"
            ),
        ),
        (
            "payload/enc/aes-gcm/key_strength",
            "256",
            "manifest /payload/enc/aes-gcm/key_strength: expected 128 or 192 or 256, found '256'",
        ),
        (
            "payload/enc/aes-gcm/key_version",
            0,
            "manifest /payload/enc/aes-gcm/key_version: expected an integer from 1 to 4294967295, found 0",
        ),
        ("payload/enc", {}, f"manifest /payload/enc: expected exactly one tag of {ENCRYPTION}, found 0"),
        (
            "payload/dig",
            {"sha256": {"data": 3}, "none": None},
            f"manifest /payload/dig: expected exactly one tag of {DIGEST}, {OF_CIPHERTEXT}, found 2",
        ),
        (
            "payload/dig",
            {"sha224": {"data": 3}},
            f"manifest /payload/dig: expected a scheme of {DIGEST}, {OF_CIPHERTEXT}, found 'sha224'",
        ),
        (
            "payload/dig",
            "sha256",
            (
                f'manifest /payload/dig: expected "none" or an object with one tag of {DIGEST}, '
                f"{OF_CIPHERTEXT}, found 'sha256'"
            ),
        ),
        (
            "payload/sig/rsa-pkcs1v15/key_strength",
            1024,
            "manifest /payload/sig/rsa-pkcs1v15/key_strength: expected 2048 or 3072 or 4096, found 1024",
        ),
        (
            "payload/cert",
            {"pgp": {}},
            f"manifest /payload/cert: expected a scheme of none, target, url, {EMBEDDED}, found 'pgp'",
        ),
        (
            "payload/cert",
            "none",
            'manifest /payload/cert: expected a certificate for the signature, found "none"',
        ),
        ("package/map", {}, "manifest /package/map: expected an array of stream indices, found an object"),
        (
            "package/map",
            [0, 1, 0],
            "manifest /package/map/2: expected each stream once, found 0 already at 0",
        ),
        ("package/map", [0, 9], "manifest /package/map/1: expected a stream index from 0 to 8, found 9"),
        (
            "package/map",
            [8, 0, 6],
            "manifest /package/map/2: expected no package digest in its own map, found stream 6",
        ),
        (
            "package/map",
            [8, 0, 7],
            "manifest /package/map/2: expected no package signature in its own map, found stream 7",
        ),
        (
            "package/layout",
            {"00": 1},
            "manifest /package/layout/00: expected a stream index from 0 to 8, found '00'",
        ),
        (
            "package/layout",
            {"1": 13},
            "manifest /package/layout/1: expected the stream table's size 12, found 13",
        ),
        (
            "package/layout",
            {"1": "12"},
            "manifest /package/layout/1: expected an integer from 0 to 9223372036854775807, found '12'",
        ),
        (
            "payload/data",
            8,
            (
                "stream 8, table entry at offset 144: "
                "expected one use, found it named as manifest and as payload"
            ),
        ),
        (
            "payload/dig/sha256/data",
            6,
            (
                "stream 6, table entry at offset 112: "
                "expected one use, found it named as digest and as package digest"
            ),
        ),
        (
            "payload/enc/aes-gcm/nonce",
            2,
            "stream 2, table entry at offset 48: expected one use, found it named as nonce and as tag",
        ),
    ],
)
def test_malformed_manifest_is_told_exactly(edit, path, value, message):
    data = edit(path, value)

    in_manifest = message.startswith("manifest ")
    assert complaint(data) == (f"{message} {place_of_manifest(data)}" if in_manifest else message)


def test_text_that_is_too_long_is_told_shortened(edit):
    assert complaint(edit("cp-id", "a" * 257)).startswith(
        "manifest /cp-id: expected 1 to 256 characters, none a control character, "
        f"found '{'a' * 48}'… of 257 characters ("
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "manifest document: expected an object, found an array"),
        (
            b'{"cp-id":1,"cp-id":2}',
            "manifest: expected each name once in an object, found that 'cp-id' stands twice",
        ),
        (b'{"x":NaN}', "manifest: expected JSON at character 5, found NaN"),
        (b"\xef\xbb\xbf{}", "manifest: expected JSON at character 0, found a byte order mark"),
    ],
)
def test_lenient_json_is_refused(text, message):
    with pytest.raises(FormatError) as caught:
        parse_manifest(text, stream_count=9)

    assert str(caught.value) == message


def test_unknown_fields_are_ignored_and_none_is_read_as_a_variant(edit):
    data = edit("package/sig", {"none": None}, signed=False)

    assert inspect_package(io.BytesIO(data), len(data)).manifest.package.signature is None
    data = edit("payload/later", {"x": [1]}, signed=False)
    assert inspect_package(io.BytesIO(data), len(data)).manifest.id == "app-1"


def test_what_is_written_is_read(bench, take):
    package = take(bench.seal(version=7))
    text = package.streams[package.manifest_index]

    manifest = parse_manifest(text, stream_count=9)

    assert encode_manifest(manifest) == text
    assert manifest.payload.encryption.key_version == 7
    assert manifest.package.map == (8, 0, 1, 2, 3, 4, 5)


def test_unsigned_manifest_says_none_as_the_reference_tool_does(bench, take):
    document = take(bench.seal(signed=False)).manifest()

    assert document["payload"]["sig"] == "none"
    assert document["package"] == {"map": [0, 1, 2, 3, 4], "dig": "none", "sig": "none", "cert": "none"}
    assert "key_version" not in document["payload"]["enc"]["aes-gcm"]


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        ({"target": {"domain": "example.com"}}, PreSharedCertificate(domain="example.com")),
        ({"url": {"url": "https://example.com/c"}}, CertificateUrl(url="https://example.com/c")),
        ({"embedded-x509-pem": {"data": 5}}, EmbeddedCertificate(data=5, encoding=Encoding.PEM)),
        ({"embedded-x509-der": {"data": 5}}, EmbeddedCertificate(data=5, encoding=Encoding.DER)),
        ({"embedded-public-key-pem": {"data": 5}}, EmbeddedPublicKey(data=5, encoding=Encoding.PEM)),
        ({"embedded-public-key-der": {"data": 5}}, EmbeddedPublicKey(data=5, encoding=Encoding.DER)),
    ],
)
def test_every_certification_scheme_is_parsed_and_written(bench, take, value, scheme):
    document = take(bench.seal()).manifest()
    document["payload"]["cert"] = value

    parsed = parse_manifest(json.dumps(document).encode(), stream_count=9).payload.certification

    assert parsed == scheme
    assert encode_scheme(parsed) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2021-10-05 12:52:37 UTC", datetime(2021, 10, 5, 12, 52, 37, tzinfo=UTC)),
        ("2021-10-05 12:52:37.489 UTC", datetime(2021, 10, 5, 12, 52, 37, 489000, tzinfo=UTC)),
        ("2021-10-05 12:52:37.489525 UTC", datetime(2021, 10, 5, 12, 52, 37, 489525, tzinfo=UTC)),
        ("2021-10-05 12:52:37.489525999 UTC", datetime(2021, 10, 5, 12, 52, 37, 489525, tzinfo=UTC)),
        ("2021-10-05T12:52:37Z", datetime(2021, 10, 5, 12, 52, 37, tzinfo=UTC)),
        ("2021-10-05t12:52:37.5z", datetime(2021, 10, 5, 12, 52, 37, 500000, tzinfo=UTC)),
        ("2021-10-05T12:52:37-03:30", datetime(2021, 10, 5, 16, 22, 37, tzinfo=UTC)),
    ],
)
def test_dates_of_the_reference_tool_and_rfc_3339_are_read(text, expected):
    assert parse_date(text, pointer="/d") == expected


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "2021-10-05",
        "2021-10-05T12:52:37",
        "2021-13-05T12:52:37Z",
        "2021-10-05T24:00:00Z",
        "2021-10-05T12:52:37+25:00",
        "2021-10-05T12:52:37+01:60",
        "0001-01-01T00:00:00+01:00",
        "2021-10-05 12:52:37.1234567890 UTC",
        "٢٠٢١-10-05T12:52:37Z",
    ],
)
def test_what_is_no_date_is_malformed(text):
    with pytest.raises(FormatError, match="manifest /d: expected a date"):
        parse_date(text, pointer="/d")


def test_dates_are_written_as_the_reference_tool_writes_them():
    assert format_date(datetime(2021, 10, 5, 12, 52, 37, 5, tzinfo=UTC)) == "2021-10-05 12:52:37.000005 UTC"


def test_roles_name_every_stream(bench):
    data = bench.seal()

    package = inspect_package(io.BytesIO(data), len(data))

    assert [package.roles_of(index) for index in range(9)] == [
        (Role.PAYLOAD,),
        (Role.NONCE,),
        (Role.TAG,),
        (Role.DIGEST,),
        (Role.SIGNATURE,),
        (Role.CERTIFICATE, Role.PACKAGE_CERTIFICATE),
        (Role.PACKAGE_DIGEST,),
        (Role.PACKAGE_SIGNATURE,),
        (Role.MANIFEST,),
    ]
