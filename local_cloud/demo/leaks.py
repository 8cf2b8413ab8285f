"""Look for secrets in files: class keys in any usual form, and any piece of a confidential document.

A key is searched as it is, in hex, and in base64 at each of the three alignments that neighbours can give it,
in the standard and the URL-safe alphabet.

A document (the model, the payload) is searched in pieces. Any run of 64 bytes in a file covers at least one
32-byte block whose offset is a multiple of 32; so it is enough to look up each such block of the file in the
set of all 32-byte windows of the document, at every offset, and to extend each hit in both directions. A run
of at least 64 equal bytes is a leak. Windows of fewer than four different byte values (the zeros that pad any
file) are no evidence and are not indexed.

Example::

    search = LeakSearch(keys={"class key 1": key}, documents={"model": weights})
    search.scan(Path(".demo"), exclude=[Path(".demo/build-machine/source")]).leaks
"""

from __future__ import annotations

import base64
import stat
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

MIN_RUN = 64
"""Bytes of a document that make a leak when they stand together in a file."""

BLOCK = MIN_RUN // 2
"""Bytes that are looked up at once: every run of :data:`MIN_RUN` covers one aligned block of this size."""

MIN_VALUES = 4
"""Different byte values that a block must have to count as evidence."""

_STANDARD_TO_URL = bytes.maketrans(b"+/", b"-_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """One secret found: which, in which file, at which byte. Never the secret itself."""

    what: str
    file: Path
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    """What a scan went through, and what it found."""

    files: int
    size: int
    leaks: tuple[Leak, ...]


class LeakSearch:
    """What is searched for, indexed once.

    Args:
        keys: Raw keys by the name under which a leak is told.
        documents: Confidential bytes by name; the index takes some 100 bytes of memory for each of theirs.
    """

    def __init__(self, *, keys: Mapping[str, bytes], documents: Mapping[str, bytes]) -> None:
        self._patterns = [(name, form) for name, key in keys.items() for form in forms_of_key(key)]
        self._documents = dict(documents)
        self._windows: defaultdict[bytes, list[tuple[str, int]]] = defaultdict(list)
        for name, document in self._documents.items():
            for offset in range(len(document) - BLOCK + 1):
                window = document[offset : offset + BLOCK]
                if len(set(window)) >= MIN_VALUES:
                    self._windows[window].append((name, offset))

    def scan(self, folder: Path, *, exclude: Collection[Path] = ()) -> ScanResult:
        """Search every regular file under ``folder``, without following symbolic links.

        A file that goes away while it is being looked for is passed over; it is no longer there to leak.

        Args:
            folder: Where to begin.
            exclude: Folders that are passed over.

        Raises:
            OSError: A file is there and cannot be read, so nothing can be said about it.
        """
        files, size = 0, 0
        leaks: list[Leak] = []
        for file in _regular_files(folder, exclude):
            try:
                data = file.read_bytes()
            except FileNotFoundError:
                continue
            files, size = files + 1, size + len(data)
            leaks += [Leak(what=what, file=file, offset=offset) for what, offset in self.search(data)]
        return ScanResult(files=files, size=size, leaks=tuple(leaks))

    def search(self, data: bytes) -> Iterator[tuple[str, int]]:
        """Yield the name and the offset of everything that leaks in ``data``."""
        for name, form in self._patterns:
            offset = data.find(form)
            if offset >= 0:
                yield name, offset
        yield from self._search_documents(data)

    def _search_documents(self, data: bytes) -> Iterator[tuple[str, int]]:
        told: dict[str, int] = {}  # name -> end of the last run told, so that a whole copy is one leak
        for offset in range(0, len(data) - BLOCK + 1, BLOCK):
            for name, position in self._windows.get(data[offset : offset + BLOCK], ()):
                if offset < told.get(name, 0):
                    continue
                start, end = _extend(data, offset, self._documents[name], position)
                if end - start >= MIN_RUN:
                    told[name] = end
                    yield name, start


def forms_of_key(key: bytes) -> list[bytes]:
    """Return the forms in which a key is searched: raw, hex in both cases, base64 at three alignments."""
    digits = key.hex().encode()
    forms = [key, digits, digits.upper()]
    for shift in range(3):
        # The first characters mix with what stands before, the last with what follows: neither is searched.
        text = base64.b64encode(bytes(shift) + key)
        first, whole = (4 if shift else 0), (shift + len(key)) // 3 * 4
        forms.append(text[first:whole])
    return list(dict.fromkeys(forms + [form.translate(_STANDARD_TO_URL) for form in forms[3:]]))


def _extend(data: bytes, offset: int, document: bytes, position: int) -> tuple[int, int]:
    """Return the bounds, in ``data``, of the longest equal run around an equal block."""
    back = 0
    while back < min(offset, position) and data[offset - back - 1] == document[position - back - 1]:
        back += 1
    ahead = BLOCK
    most = min(len(data) - offset, len(document) - position)
    while ahead < most and data[offset + ahead] == document[position + ahead]:
        ahead += 1
    return offset - back, offset + ahead


def _regular_files(folder: Path, exclude: Collection[Path]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path in exclude:
            continue
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(mode):
            yield from _regular_files(path, exclude)
        elif stat.S_ISREG(mode):
            yield path
