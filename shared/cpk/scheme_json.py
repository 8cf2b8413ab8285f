"""Schemes as JSON: ``"none"`` or an object with exactly one tag, ``{"sha256": {"data": 3}}``.

Tags are kebab-case, the fields inside are snake_case. ``{"none": null}`` is read too, as the reference parser
does; arrays, several tags and unknown tags are malformed.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeVar

from shared.cpk.fields import Fields, refused
from shared.cpk.hashing import HashAlgorithm
from shared.cpk.schemes import (
    AES_STRENGTHS,
    MAX_SEGMENT_SIZE,
    MIN_SEGMENT_SIZE,
    RSA_STRENGTHS,
    AesGcm,
    AesGcmStream,
    CertificateUrl,
    Certification,
    ChaCha20Poly1305,
    Digest,
    EmbeddedCertificate,
    EmbeddedPublicKey,
    Encoding,
    Encryption,
    PreSharedCertificate,
    Signature,
    SignatureScheme,
)
from shared.errors import FormatError
from shared.types import MAX_KEY_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SEGMENT_SIZES = tuple(
    1 << bits for bits in range(MIN_SEGMENT_SIZE.bit_length() - 1, MAX_SEGMENT_SIZE.bit_length())
)
"""The powers of two that a segment may be long, in bytes."""

OF_CIPHERTEXT = "-ciphertext"
"""Ends the tag of a digest over the payload as stored."""

Scheme = TypeVar("Scheme")


def parse_encryption(fields: Fields, name: str) -> Encryption | None:
    """Read an encryption scheme.

    Raises:
        FormatError: It is not ``"none"`` or an object with one known tag, or a field of the scheme is wrong.
    """
    readers: dict[str, Callable[[Fields], Encryption]] = {
        "aes-gcm": _aes_gcm,
        "chacha20-poly1305": _chacha20_poly1305,
        "aes-gcm-stream": _aes_gcm_stream,
    }
    return _parse(fields, name, readers)


def parse_digest(fields: Fields, name: str, *, of_payload: bool) -> Digest | None:
    """Read a digest scheme; only a payload has a ciphertext. Errors as for :func:`parse_encryption`."""
    readers = {
        algorithm.value + (OF_CIPHERTEXT if of_ciphertext else ""): functools.partial(
            _digest, algorithm=algorithm, of_ciphertext=of_ciphertext
        )
        for of_ciphertext in ((False, True) if of_payload else (False,))
        for algorithm in HashAlgorithm
    }
    return _parse(fields, name, readers)


def parse_signing(fields: Fields, name: str) -> Signature | None:
    """Read a signing scheme; errors as for :func:`parse_encryption`."""
    readers = {scheme.value: functools.partial(_signature, scheme=scheme) for scheme in SignatureScheme}
    return _parse(fields, name, readers)


def parse_certification(fields: Fields, name: str) -> Certification | None:
    """Read a certification scheme; errors as for :func:`parse_encryption`."""
    readers: dict[str, Callable[[Fields], Certification]] = {
        "target": lambda inner: PreSharedCertificate(domain=inner.text("domain")),
        "url": lambda inner: CertificateUrl(url=inner.text("url")),
    }
    for encoding in Encoding:
        readers[f"embedded-x509-{encoding.value}"] = functools.partial(_certificate, encoding=encoding)
        readers[f"embedded-public-key-{encoding.value}"] = functools.partial(_public_key, encoding=encoding)
    return _parse(fields, name, readers)


def encode_scheme(scheme: Encryption | Digest | Signature | Certification | None) -> object:
    """Return a scheme's JSON value, ``"none"`` for ``None``; a field that is ``None`` is left out."""
    if scheme is None:
        return "none"
    names = _FIELDS[type(scheme)]
    values = {name: getattr(scheme, name) for name in names}
    return {_tag(scheme): {name: value for name, value in values.items() if value is not None}}


_FIELDS: Mapping[type[object], tuple[str, ...]] = {
    AesGcm: ("key_name", "key_strength", "nonce", "tag", "key_version"),
    ChaCha20Poly1305: ("key_name", "nonce", "tag", "key_version"),
    AesGcmStream: ("key_name", "key_strength", "segment_size", "salt", "prefix", "key_version"),
    Digest: ("data",),
    Signature: ("key_strength", "data"),
    PreSharedCertificate: ("domain",),
    CertificateUrl: ("url",),
    EmbeddedCertificate: ("data",),
    EmbeddedPublicKey: ("data",),
}


_TAGS: Mapping[type[object], str] = {
    AesGcm: "aes-gcm",
    ChaCha20Poly1305: "chacha20-poly1305",
    AesGcmStream: "aes-gcm-stream",
    PreSharedCertificate: "target",
    CertificateUrl: "url",
    EmbeddedCertificate: "embedded-x509",
    EmbeddedPublicKey: "embedded-public-key",
}


def _tag(scheme: Encryption | Digest | Signature | Certification) -> str:
    match scheme:
        case Digest():
            return scheme.algorithm.value + (OF_CIPHERTEXT if scheme.of_ciphertext else "")
        case Signature():
            return scheme.scheme.value
        case EmbeddedCertificate() | EmbeddedPublicKey():
            return f"{_TAGS[type(scheme)]}-{scheme.encoding.value}"
        case _:
            return _TAGS[type(scheme)]


def _aes_gcm(inner: Fields) -> AesGcm:
    return AesGcm(
        key_name=inner.identifier("key_name"),
        key_strength=inner.one_of("key_strength", AES_STRENGTHS),
        nonce=inner.stream("nonce"),
        tag=inner.stream("tag"),
        key_version=_key_version(inner),
    )


def _chacha20_poly1305(inner: Fields) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(
        key_name=inner.identifier("key_name"),
        nonce=inner.stream("nonce"),
        tag=inner.stream("tag"),
        key_version=_key_version(inner),
    )


def _aes_gcm_stream(inner: Fields) -> AesGcmStream:
    return AesGcmStream(
        key_name=inner.identifier("key_name"),
        key_strength=inner.one_of("key_strength", AES_STRENGTHS),
        segment_size=inner.one_of("segment_size", SEGMENT_SIZES),
        salt=inner.stream("salt"),
        prefix=inner.stream("prefix"),
        key_version=_key_version(inner),
    )


def _key_version(inner: Fields) -> int | None:
    name = "key_version"
    return inner.integer(name, low=1, high=MAX_KEY_VERSION) if name in inner.values else None


def _digest(inner: Fields, *, algorithm: HashAlgorithm, of_ciphertext: bool) -> Digest:
    return Digest(algorithm=algorithm, data=inner.stream("data"), of_ciphertext=of_ciphertext)


def _signature(inner: Fields, *, scheme: SignatureScheme) -> Signature:
    strength = inner.one_of("key_strength", RSA_STRENGTHS) if scheme.is_rsa else None
    return Signature(scheme=scheme, key_strength=strength, data=inner.stream("data"))


def _certificate(inner: Fields, *, encoding: Encoding) -> EmbeddedCertificate:
    return EmbeddedCertificate(data=inner.stream("data"), encoding=encoding)


def _public_key(inner: Fields, *, encoding: Encoding) -> EmbeddedPublicKey:
    return EmbeddedPublicKey(data=inner.stream("data"), encoding=encoding)


def _parse(fields: Fields, name: str, readers: Mapping[str, Callable[[Fields], Scheme]]) -> Scheme | None:
    value = fields.value(name)
    pointer = fields.at(name)
    known = ", ".join(("none", *readers))
    if value == "none":
        return None
    if not isinstance(value, dict):
        raise refused(pointer, f'"none" or an object with one tag of {known}', value)
    if len(value) != 1:
        raise FormatError(f"manifest {pointer}: expected exactly one tag of {known}, found {len(value)}")
    (tag,) = value
    if tag == "none":
        if value[tag] is not None:
            raise refused(f"{pointer}/none", "null", value[tag])
        return None
    if tag not in readers:
        raise refused(pointer, f"a scheme of {known}", tag)
    inner = Fields.of(value[tag], pointer=f"{pointer}/{tag}", stream_count=fields.stream_count)
    return readers[tag](inner)
