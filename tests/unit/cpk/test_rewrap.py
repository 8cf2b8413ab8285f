"""Rewrapping: the same payload under another key, and nothing signed that did not hold."""

import io
import threading

import pytest

from shared.cpk.opening import Requirements
from shared.cpk.profiles import RECOMMENDED, REFERENCE
from shared.cpk.rewrap import rewrap_package
from shared.cpk.schemes import SignatureScheme
from shared.cpk.sealing import ClassKey
from shared.errors import FormatError, VerificationError
from shared.types import KeyName, Secret

OLD, NEW = Secret(bytes(range(32))), Secret(bytes(range(1, 33)))
PAYLOAD = bytes(range(256)) * 20000  # five chunks


class CountingSigner:
    """A signer that remembers how often it was asked."""

    def __init__(self, signer):
        self._signer = signer
        self.asked = 0

    def __getattr__(self, name):
        return getattr(self._signer, name)

    def sign(self, digest, role):
        self.asked += 1
        return self._signer.sign(digest, role)


@pytest.fixture
def bench(bench_of):
    return bench_of(SignatureScheme.RSA_PKCS1V15)


def rewrap(bench, data, output, *, signer=None, profile=RECOMMENDED, nonce=None, source=None):
    return rewrap_package(
        source if source is not None else io.BytesIO(data),
        len(data),
        output,
        old_key=lambda _: OLD,
        trust=bench.trust,
        at=bench.trust.roots[0].not_valid_before_utc,
        requirements=Requirements(package_signature=True),
        class_key=ClassKey(name=KeyName("new"), version=2, key=NEW),
        nonce=nonce if nonce is not None else bytes(profile.nonce_size),
        signer=signer if signer is not None else bench.signer,
        profile=profile,
    )


@pytest.mark.parametrize("profile", [REFERENCE, RECOMMENDED])
@pytest.mark.parametrize("payload", [b"x", PAYLOAD], ids=["small", "large"])
def test_the_payload_is_the_same_under_another_key(bench, payload, profile):
    output = io.BytesIO()
    old, _ = bench.open(bench.seal(payload))

    sealed = rewrap(bench, bench.seal(payload), output, profile=profile)
    opened, clear = bench.open(output.getvalue(), key=NEW, package_signature=True)

    assert clear == payload
    assert sealed.size == len(output.getvalue())
    assert opened.manifest.payload.version == old.manifest.payload.version
    assert (opened.manifest.id, opened.manifest.name) == (old.manifest.id, old.manifest.name)
    assert (opened.manifest.payload.encryption.key_name, bench.asked[-1].version) == ("new", 2)


@pytest.mark.parametrize(
    ("stream", "code"), [(0, "tag_mismatch"), (2, "tag_mismatch"), (7, "package_signature_invalid")]
)
def test_what_does_not_hold_is_not_signed_again(bench, take, stream, code):
    package = take(bench.seal(PAYLOAD))
    package.streams[stream] = b"\xff" + package.streams[stream][1:]
    signer = CountingSigner(bench.signer)

    with pytest.raises(VerificationError) as caught:
        rewrap(bench, package.join(), io.BytesIO(), signer=signer)

    assert caught.value.code == code
    assert signer.asked == 0
    assert not opening_threads()


def test_an_output_that_fails_ends_the_opening(bench):
    class Full(io.BytesIO):
        def write(self, data, /):
            raise OSError(28, "no space")

    with pytest.raises(OSError, match="no space"):
        rewrap(bench, bench.seal(PAYLOAD), Full())
    with pytest.raises(FormatError, match="nonce: expected 39 bytes"):
        rewrap(bench, bench.seal(PAYLOAD), io.BytesIO(), nonce=b"short")

    assert not opening_threads()


def test_a_package_that_is_swapped_in_between_is_told(bench):
    first, second = bench.seal(b"x" * 100, version=8), bench.seal(b"x" * 100, version=9)

    class Swapping(io.BytesIO):
        looks = 0

        def seek(self, offset, whence=0, /):
            self.looks += offset == 0
            if offset == 0 and self.looks == 2:
                super().seek(0)
                self.write(second)
            return super().seek(offset, whence)

    with pytest.raises(FormatError, match="package: its manifest changed while it was read"):
        rewrap(bench, first, io.BytesIO(), source=Swapping(first))


def opening_threads():
    return [thread for thread in threading.enumerate() if thread.name == "open-package"]
