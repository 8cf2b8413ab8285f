"""Sealing: the layout that is promised, and what is refused before or while it is written."""

import hashlib
import io
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.cpk.manifest import Target, Version
from shared.cpk.package import inspect_package
from shared.cpk.sealing import ClassKey, Description, seal_package
from shared.errors import FormatError
from shared.types import KeyName, Secret

DESCRIPTION = Description(
    id="app",
    name="App",
    vendor="",
    target=Target(arch="any", os="any"),
    version=Version(major=0, minor=0, revision=0, date=datetime(2026, 1, 1, tzinfo=UTC)),
)


def seal(source, size, *, output=None, key=None, nonce=bytes(12), description=DESCRIPTION, parallel=None):
    return seal_package(
        source,
        size,
        output if output is not None else io.BytesIO(),
        description=description,
        class_key=ClassKey(name=KeyName("k"), version=None, key=key or Secret(bytes(32))),
        nonce=nonce,
        signer=None,
        parallel=parallel,
    )


def test_signed_package_has_the_nine_streams_of_the_specification(bench, take):
    package = take(bench.seal(b"payload"))
    document = package.manifest()

    assert package.manifest_index == 8
    assert [len(stream) for stream in package.streams[:5]] == [7, 12, 16, 32, 256]
    assert package.streams[3] == hashlib.sha256(b"payload").digest()
    assert AESGCM(bytes(range(32))).decrypt(
        package.streams[1], package.streams[0] + package.streams[2], None
    ) == (b"payload")
    covered = b"".join(package.streams[index] for index in document["package"]["map"])
    assert package.streams[6] == hashlib.sha256(covered).digest()
    sizes = {str(index): len(stream) for index, stream in enumerate(package.streams[:8])}
    assert document["package"]["layout"] == sizes


def test_unsigned_package_has_five_streams(bench, take):
    package = take(bench.seal(b"payload", signed=False))

    assert [len(stream) for stream in package.streams[:4]] == [7, 12, 16, 32]
    assert package.manifest_index == 4


def test_size_that_is_returned_is_the_files(bench):
    output = io.BytesIO()

    sealed = seal(io.BytesIO(b"abc"), 3, output=output)

    assert sealed.size == len(output.getvalue())
    output.seek(0)
    assert inspect_package(output, sealed.size).manifest == sealed.manifest


def test_a_raw_file_that_writes_in_pieces_is_written_whole(bench):
    class Reluctant(io.BytesIO):
        def write(self, data, /):
            return super().write(bytes(data[:1000]))

    output = Reluctant()
    sealed = seal(io.BytesIO(bytes(5000)), 5000, output=output)

    assert len(output.getvalue()) == sealed.size


def test_a_source_that_reads_in_pieces_is_read_whole():
    class Reluctant(io.BytesIO):
        def readinto(self, buffer, /):
            return super().readinto(memoryview(buffer)[:777])

    whole, pieces = io.BytesIO(), io.BytesIO()
    seal(io.BytesIO(bytes(5000)), 5000, output=whole)
    seal(Reluctant(bytes(5000)), 5000, output=pieces)

    assert whole.getvalue() == pieces.getvalue()


@pytest.mark.parametrize("parallel", [False, True])
def test_a_payload_that_changes_its_size_is_told(parallel):
    with pytest.raises(FormatError, match="payload: expected 10 bytes, it ends after 4"):
        seal(io.BytesIO(b"four"), 10, parallel=parallel)
    with pytest.raises(FormatError, match="payload: expected 3 bytes, it grew while it was read"):
        seal(io.BytesIO(b"four"), 3, parallel=parallel)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "payload: expected 1 to 68719476704 bytes, found 0"),
        ({"size": 2**36 - 31}, "payload: expected 1 to 68719476704 bytes, found 68719476705"),
        ({"nonce": bytes(11)}, "nonce: expected 12 bytes, found 11"),
        ({"key": Secret(bytes(31))}, "class key k: expected 16, 24 or 32 bytes, found 31"),
    ],
)
def test_what_does_not_fit_the_format_is_told_before_anything_is_written(arguments, message):
    output = io.BytesIO()

    with pytest.raises(FormatError) as caught:
        seal(io.BytesIO(b"x"), arguments.pop("size", 1), output=output, **arguments)

    assert str(caught.value) == message
    assert output.getvalue() == b""


def test_a_description_that_no_reader_takes_is_refused():
    description = Description(
        id="a\0b", name="", vendor="", target=DESCRIPTION.target, version=DESCRIPTION.version
    )

    with pytest.raises(FormatError, match="manifest /cp-id: expected 1 to 256 characters"):
        seal(io.BytesIO(b"x"), 1, description=description)


def test_a_signer_that_breaks_its_promise_is_told(bench):
    class Short:
        scheme, key_strength = bench.signer.scheme, bench.signer.key_strength
        certification, subject = bench.signer.certification, bench.signer.subject

        def sign(self, digest, role):
            return b"short"

    bench.signer = Short()

    with pytest.raises(FormatError) as caught:
        bench.seal(b"x")
    assert str(caught.value) == "payload signature: expected 256 bytes of rsa-pkcs1v15, found 5"
