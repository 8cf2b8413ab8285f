"""Every digest that one pass over a package has to make: which, and over what (specification, section 5.2).

A section needs the algorithm of its ``dig`` and the one its signature is over, mostly the same. The payload's
are over its clear bytes or over its stored ones, the package's over the mapped streams. Where the payload's
stored bytes come first in the map, its digest is the package's as it stands behind them: one hash does both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.cpk.hashing import HashAlgorithm, StreamDigest, start_digest

if TYPE_CHECKING:
    from shared.cpk.manifest import Manifest, PackageSection, Payload
    from shared.cpk.schemes import Digest, Signature


def signed_algorithm(signature: Signature, digest: Digest | None) -> HashAlgorithm:
    """Return what the signed digest is made with: a pure scheme signs the section's own, else SHA-256."""
    fixed = signature.scheme.digest_algorithm
    if fixed is not None:
        return fixed
    return digest.algorithm if digest is not None else HashAlgorithm.SHA256


class PackageDigests:
    """The digests of one pass; to be closed, also after an error.

    Args:
        manifest: What the package says.
        size: About how many bytes there are.
        parallel: Whether digests run on threads of their own; by default if there are many bytes.

    Attributes:
        clear: To be fed the payload in clear.
        stored: To be fed the payload's stream as it lies in the file.
    """

    def __init__(self, manifest: Manifest, *, size: int, parallel: bool | None) -> None:
        payload, package = manifest.payload, manifest.package
        of_ciphertext = payload.digest is not None and payload.digest.of_ciphertext
        wanted, mapped = _algorithms(payload), _algorithms(package)
        first = bool(package.map) and package.map[0] == payload.data
        self._shared = wanted & mapped if of_ciphertext and first else frozenset()
        self._payload = {each: _start(each, size, parallel) for each in _sorted(wanted - self._shared)}
        self._package = {each: _start(each, size, parallel) for each in _sorted(mapped)}
        self._snapshots: dict[HashAlgorithm, bytes] = {}
        own = tuple(self._payload.values())
        self.clear = () if of_ciphertext else own
        self.stored = (*(own if of_ciphertext else ()), *self._package.values())

    @property
    def covers_package(self) -> bool:
        """Whether the mapped streams are digested at all."""
        return bool(self._package)

    def add_mapped(self, data: bytes | memoryview) -> None:
        """Add a mapped stream, or a piece of it, that is not the payload."""
        for digest in self._package.values():
            digest.update(data)

    def end_payload(self) -> None:
        """Say that the payload is through; nothing else may have been added before it if it comes first."""
        for algorithm in self._shared:
            self._snapshots[algorithm] = self._package[algorithm].snapshot()
        for algorithm, digest in self._payload.items():
            self._snapshots[algorithm] = digest.finish()

    def payload(self, algorithm: HashAlgorithm) -> bytes:
        """Return the payload's digest, after :meth:`end_payload`."""
        return self._snapshots[algorithm]

    def package(self, algorithm: HashAlgorithm) -> bytes:
        """Return the mapped streams' digest so far."""
        return self._package[algorithm].snapshot()

    def clear_sha256(self) -> bytes | None:
        """Return SHA-256 over the payload in clear, where it was made, after :meth:`end_payload`."""
        if HashAlgorithm.SHA256 not in self._payload or not self.clear:
            return None
        return self._snapshots[HashAlgorithm.SHA256]

    def close(self) -> None:
        """End whatever runs; may be called again."""
        for digest in (*self._payload.values(), *self._package.values()):
            digest.close()


def _start(algorithm: HashAlgorithm, size: int, parallel: bool | None) -> StreamDigest:
    return start_digest(size, algorithm=algorithm, parallel=parallel)


def _algorithms(section: Payload | PackageSection) -> frozenset[HashAlgorithm]:
    found = set()
    if section.digest is not None:
        found.add(section.digest.algorithm)
    if section.signature is not None:
        found.add(signed_algorithm(section.signature, section.digest))
    return frozenset(found)


def _sorted(algorithms: frozenset[HashAlgorithm]) -> list[HashAlgorithm]:
    return sorted(algorithms, key=lambda algorithm: algorithm.value)
