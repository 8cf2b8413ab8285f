"""What frame and manifest say about each other."""

import io

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.cpk.package import inspect_package
from shared.errors import FormatError


def inspect(data):
    return inspect_package(io.BytesIO(data), len(data))


def resized(take, data, index, stream):
    package = take(data)
    document = package.manifest()
    document["package"].pop("layout", None)
    package.with_manifest(document)
    package.streams[index] = stream
    return package.join()


@pytest.mark.parametrize(
    ("index", "size", "message"),
    [
        (0, 0, "stream 0 (payload), table entry at offset 16: expected 1 to 68719476704 bytes, found 0"),
        (1, 13, "stream 1 (nonce), table entry at offset 32: expected 12 bytes, found 13"),
        (2, 0, "stream 2 (tag), table entry at offset 48: expected 16 bytes, found 0"),
        (3, 31, "stream 3 (digest), table entry at offset 64: expected 32 bytes, found 31"),
        (4, 255, "stream 4 (signature), table entry at offset 80: expected 256 bytes, found 255"),
        (
            5,
            65537,
            "stream 5 (certificate), table entry at offset 96: expected 1 to 65536 bytes, found 65537",
        ),
        (6, 33, "stream 6 (package digest), table entry at offset 112: expected 32 bytes, found 33"),
        (7, 512, "stream 7 (package signature), table entry at offset 128: expected 256 bytes, found 512"),
        (8, 0, "stream 8 (manifest), table entry at offset 144: expected 1 to 1048576 bytes, found 0"),
        (
            8,
            (1 << 20) + 1,
            "stream 8 (manifest), table entry at offset 144: expected 1 to 1048576 bytes, found 1048577",
        ),
    ],
)
def test_a_stream_of_the_wrong_size_is_malformed(bench, take, index, size, message):
    with pytest.raises(FormatError) as caught:
        inspect(resized(take, bench.seal(), index, bytes(size)))

    assert str(caught.value) == message


def test_a_certificate_stream_without_certificate_is_malformed(bench, take):
    with pytest.raises(FormatError, match=r"stream 5 \(certificate\) at offset \d+: expected"):
        inspect(resized(take, bench.seal(), 5, b"-----BEGIN nothing"))


def test_a_certificate_in_the_other_encoding_is_malformed(bench, take, signing_key):
    der = bench.trust.roots[0].public_bytes(Encoding.DER)

    with pytest.raises(FormatError, match=r"stream 5 \(certificate\) at offset \d+: expected PEM, found DER"):
        inspect(resized(take, bench.seal(), 5, der))


def test_one_certificate_stream_read_in_two_ways_is_malformed(edit):
    data = edit("package/cert", {"embedded-public-key-pem": {"data": 5}})

    with pytest.raises(
        FormatError,
        match="stream 5, table entry at offset 96: expected one encoding, found payload and package",
    ):
        inspect(data)


@pytest.mark.parametrize(
    ("encoding", "tag"),
    [(Encoding.PEM, "pem"), (Encoding.DER, "der")],
)
def test_a_bare_public_key_is_parsed(bench, take, signing_key, encoding, tag):
    package = take(bench.seal())
    document = package.manifest()
    document["package"] |= {"dig": "none", "sig": "none", "cert": "none"}
    document["package"].pop("layout")
    document["payload"]["cert"] = {f"embedded-public-key-{tag}": {"data": 5}}
    package.with_manifest(document)
    package.streams[5] = signing_key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)

    inspected = inspect(package.join())

    assert inspected.public_keys[5].key.public_numbers() == signing_key.public_key().public_numbers()
    package.streams[5] = package.streams[5][:-40]
    with pytest.raises(FormatError, match=r"stream 5 \(public key\) at offset \d+: expected"):
        inspect(package.join())


def test_a_sealed_package_has_no_warnings(bench):
    assert inspect(bench.seal()).warnings == ()


def test_what_a_reader_should_know_is_warned_of(bench, edit):
    unsigned = bench.seal(signed=False) + b"more"
    assert inspect(unsigned).warnings == (
        "4 bytes after the last stream belong to nothing",
        "the payload is not signed",
    )
    assert inspect(edit("payload/enc", "none")).warnings == (
        "the payload is not encrypted",
        "nothing names streams 1, 2",
    )
    assert inspect(edit("payload/sig", "none")).warnings == (
        "the payload has a certificate and no signature",
        "the payload is not signed",
        "nothing names streams 4",
    )


def test_a_map_that_leaves_something_out_is_warned_of(edit):
    package = inspect(edit("package/map", [0, 1]))

    assert package.uncovered == (2, 3, 4, 5, 8)
    assert package.warnings == (
        "the package digest or signature leaves out streams 2, 3, 4, 5, 8: it will be refused",
    )


def test_reading_does_not_look_at_the_payload(bench, take):
    class Watched(io.BytesIO):
        touched = ()

        def read(self, count=-1, /):
            self.touched = (*self.touched, (self.tell(), count))
            return super().read(count)

    data = bench.seal()
    file = Watched(data)
    package = inspect_package(file, len(data))
    start = package.frame.file_offset(0)
    end = start + package.payload_size

    assert file.touched
    assert all(at + count <= start or at >= end for at, count in file.touched)
