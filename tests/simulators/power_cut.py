"""A disk that loses power: records what a program does to a folder, and lays out all that may be left of it.

The program's own calls of :mod:`os` go through and are recorded. The model is the weakest that POSIX allows:

- bytes are safe once their file was fsynced; until then any part of the writes may be there in their order,
  the last one whole, torn in the middle, or as a length of zeros;
- a name that was made, renamed or removed is safe once its folder was fsynced; until then each such change
  may be there or not, independently of the others. A rename itself is atomic.

A call that the model does not know fails the test, and :meth:`Recording.everything_kept` has to be the folder
as it really is: so nothing was written past the recorder.
"""

from __future__ import annotations

import errno
import itertools
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

Image = dict[str, bytes | None]
"""What a disk holds: path to content, None for a folder."""

_REAL = {
    name: getattr(os, name)
    for name in ("open", "write", "fsync", "close", "rename", "replace", "unlink", "mkdir", "rmdir")
}
_UNKNOWN = ("truncate", "ftruncate", "pwrite", "pwritev", "writev", "sendfile", "copy_file_range", "link")
_UNKNOWN += ("symlink", "removedirs", "renames", "remove", "posix_fallocate", "fdatasync")


@dataclass(frozen=True)
class Made:
    """A name came into a folder: of a file by its number, or of a folder."""

    folder: str
    name: str
    file: int | None


@dataclass(frozen=True)
class Renamed:
    folder: str
    old: str
    new: str
    file: int


@dataclass(frozen=True)
class Removed:
    folder: str
    name: str


@dataclass(frozen=True)
class Emptied:
    file: int


@dataclass(frozen=True)
class Wrote:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class FileSynced:
    file: int


@dataclass(frozen=True)
class FolderSynced:
    folder: str


Step = Made | Renamed | Removed | Emptied | Wrote | FileSynced | FolderSynced


@dataclass
class _File:
    safe: bytes = b""
    pending: list[Emptied | Wrote] = field(default_factory=list)

    def variants(self) -> list[bytes]:
        """All that may be left of it."""
        found = [self.safe]
        for step in self.pending:
            before = found[-1]
            found.append(_applied(before, step))
        if self.pending and isinstance(last := self.pending[-1], Wrote):
            before = found[-2]
            found.insert(1, _applied(before, Wrote(last.file, last.offset, last.data[: len(last.data) // 2])))
            found.insert(1, _applied(before, Wrote(last.file, last.offset, bytes(len(last.data)))))
        return list(dict.fromkeys(found))

    def sync(self) -> None:
        for step in self.pending:
            self.safe = _applied(self.safe, step)
        self.pending.clear()


def _applied(content: bytes, step: Emptied | Wrote) -> bytes:
    if isinstance(step, Emptied):
        return b""
    gap = bytes(max(0, step.offset - len(content)))
    return content[: step.offset] + gap + step.data + content[step.offset + len(step.data) :]


@dataclass
class _Folder:
    safe: dict[str, int | None] = field(default_factory=dict)
    pending: list[Made | Renamed | Removed] = field(default_factory=list)

    def variants(self) -> list[dict[str, int | None]]:
        assert len(self.pending) <= 8, "too many names at once to try every subset"
        chosen = itertools.product((False, True), repeat=len(self.pending))
        return [
            _names_after(self.safe, itertools.compress(self.pending, chosen_ones)) for chosen_ones in chosen
        ]

    def sync(self) -> None:
        self.safe = _names_after(self.safe, self.pending)
        self.pending.clear()


def _names_after(names, steps) -> dict[str, int | None]:
    after = dict(names)
    for step in steps:
        match step:
            case Made(name=name, file=file):
                after[name] = file
            case Renamed(old=old, new=new, file=file):
                after.pop(old, None)
                after[new] = file
            case Removed(name=name):
                after.pop(name, None)
    return after


class Recording:
    """What was done below ``root``, an empty folder that is safe itself.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[Step] = []
        self.fail_at: int | None = None
        self._names: dict[tuple[str, str], int | None] = {}
        self._descriptors: dict[int, int | str] = {}  # open for writing: the file's number, or the folder
        self._numbers = itertools.count()

    # ── recording ─────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record what is done inside; real fsyncs are left out, the model knows what they mean."""
        with pytest.MonkeyPatch.context() as patch:
            for name in _REAL:
                patch.setattr(os, name, getattr(self, f"_{name}"))
            for name in _UNKNOWN:
                patch.setattr(os, name, _unknown(name))
            yield

    def _open(self, path, flags, mode=0o777, **more):
        place = self._place(path)
        if place is None:
            fd = _REAL["open"](path, flags, mode, **more)
            self._descriptors.pop(fd, None)
            return fd
        known = place in self._names
        if (flags & os.O_CREAT and not known) or flags & os.O_TRUNC:
            self._perhaps_fail()
        fd = _REAL["open"](path, flags, mode, **more)
        self._descriptors.pop(fd, None)
        if flags & os.O_DIRECTORY:
            self._descriptors[fd] = _join(*place)
            return fd
        if flags & os.O_CREAT and not known:
            self._add(Made(*place, next(self._numbers)))
        elif flags & os.O_TRUNC:
            self._add(Emptied(self._names[place]))
        if flags & (os.O_WRONLY | os.O_RDWR):
            self._descriptors[fd] = self._names[place]
        return fd

    def _write(self, fd, data):
        file = self._descriptors.get(fd)
        if file is None:
            return _REAL["write"](fd, data)
        self._perhaps_fail()
        offset = os.lseek(fd, 0, os.SEEK_CUR)
        count = _REAL["write"](fd, data)
        self._add(Wrote(file, offset, bytes(data[:count])))
        return count

    def _fsync(self, fd):
        self._perhaps_fail()
        place = self._descriptors[fd]
        self._add(FolderSynced(place) if isinstance(place, str) else FileSynced(place))

    def _close(self, fd):
        self._descriptors.pop(fd, None)
        _REAL["close"](fd)

    def _rename(self, old, new, **more):
        self._perhaps_fail()
        _REAL["rename"](old, new, **more)
        (folder, before), (other, after) = self._place(old), self._place(new)
        assert folder == other, "the model knows renames within a folder"
        self._add(Renamed(folder, before, after, self._names[folder, before]))

    _replace = _rename

    def _unlink(self, path, **more):
        place = self._place(path)
        if place in self._names:
            self._perhaps_fail()
        _REAL["unlink"](path, **more)
        if place is not None:
            self._add(Removed(*place))

    def _mkdir(self, path, mode=0o777, **more):
        place = self._place(path)
        if place is not None and place not in self._names:
            self._perhaps_fail()
        _REAL["mkdir"](path, mode, **more)
        if place is not None:
            self._add(Made(*place, None))

    def _rmdir(self, path, **more):
        _REAL["rmdir"](path, **more)
        self._add(Removed(*self._place(path)))

    def _place(self, path) -> tuple[str, str] | None:
        """Return a path below the root as its folder and name; the root itself is ("", "")."""
        if not isinstance(path, str | os.PathLike) or not Path(path).is_relative_to(self.root):
            return None
        *folders, name = ("", *Path(path).relative_to(self.root).parts)
        return _join(*folders), name

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        match step:
            case Made(folder=folder, name=name, file=file):
                self._names[folder, name] = file
            case Renamed(folder=folder, old=old, new=new, file=file):
                del self._names[folder, old]
                self._names[folder, new] = file
            case Removed(folder=folder, name=name):
                del self._names[folder, name]

    def _perhaps_fail(self) -> None:
        if self.fail_at == len(self.steps):
            self.fail_at = None
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    # ── the cut ───────────────────────────────────────────────────────────────────────────────────────────

    def images(self, cut: int) -> list[Image]:
        """Return everything that the disk may hold when power goes after ``cut`` steps."""
        folders, files = self._replayed(cut)
        found: dict[frozenset, Image] = {}
        for choice in itertools.product(*(folder.variants() for folder in folders.values())):
            tree = dict(_walk(dict(zip(folders, choice, strict=True)), ""))
            contents = [[None] if number is None else files[number].variants() for number in tree.values()]
            for chosen in itertools.product(*contents):
                image = dict(zip(tree, chosen, strict=True))
                found.setdefault(frozenset(image.items()), image)
        return list(found.values())

    def everything_kept(self) -> Image:
        """Return what the disk holds if nothing is lost."""
        folders, files = self._replayed(len(self.steps))
        for part in (*folders.values(), *files.values()):
            part.sync()
        tree = dict(_walk({path: folder.safe for path, folder in folders.items()}, ""))
        return {path: None if number is None else files[number].safe for path, number in tree.items()}

    def _replayed(self, cut: int) -> tuple[dict[str, _Folder], dict[int, _File]]:
        folders, files = {"": _Folder()}, {}
        for step in self.steps[:cut]:
            match step:
                case FolderSynced(folder=folder):
                    folders[folder].sync()
                case FileSynced(file=file):
                    files[file].sync()
                case Wrote(file=file) | Emptied(file=file):
                    files[file].pending.append(step)
                case Made(folder=folder, name=name, file=file):
                    folders[folder].pending.append(step)
                    if file is None:
                        folders[_join(folder, name)] = _Folder()
                    else:
                        files[file] = _File()
                case Renamed(folder=folder) | Removed(folder=folder):
                    folders[folder].pending.append(step)
        return folders, files


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _unknown(name):
    def refuse(*_args, **_more):
        raise AssertionError(f"the model of the disk does not know os.{name}")

    return refuse


def _walk(folders: dict[str, dict[str, int | None]], folder: str) -> Iterator[tuple[str, int | None]]:
    for name, file in sorted(folders[folder].items()):
        path = f"{folder}/{name}" if folder else name
        yield path, file
        if file is None:
            yield from _walk(folders, path)


def lay_out(image: Image, root: Path) -> None:
    """Make ``root``, an empty folder, hold an image."""
    for path, content in sorted(image.items()):
        if content is None:
            (root / path).mkdir(mode=0o700)
        else:
            (root / path).touch(mode=0o600)
            (root / path).write_bytes(content)


def read_back(root: Path) -> Image:
    """Return what a folder really holds."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }
