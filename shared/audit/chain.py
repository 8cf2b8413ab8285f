"""The hash chain over audit records: link, encode, parse, verify (release-policy.md section 6).

Entry ``n`` holds ``SHA-256(hash of entry n-1, 32 bytes ‖ canonical JSON of record n)``; the first one follows
32 zero bytes. Entries are numbered from 1 without a gap. Canonical JSON is RFC 8785 over what a record may
hold: no floats, no integers above 2^53.

Whoever verifies finds a record that was changed, removed, inserted or moved. The hash has no key, so the end
of a chain can be cut off, or the whole be written anew, without a trace in the chain itself: that takes an
anchor, an entry's number and hash that were kept elsewhere.

Example:
    >>> one = link(START, {"event": "wrap", "outcome": "denied"})
    >>> verify([one], anchors=[one.head]) == one.head
    True
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from shared import strict_json
from shared.errors import FormatError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LINE_BYTES: Final = 64 * 1024
"""Longest entry that is read, as a line."""

MAX_INTEGER: Final = 2**53
"""Largest integer in a record, the last that every JSON reader holds exactly."""

_HASH_BYTES = 32
_HEX = re.compile(r"[0-9a-f]{64}")
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)
_SORTING = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False, sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """An entry by its number and hash: the end of a chain, or an anchor kept elsewhere.

    Args:
        seq: The entry's number; 0 before the first.
        hash: The entry's hash, 32 bytes.
    """

    seq: int
    hash: bytes


START: Final = Head(seq=0, hash=bytes(_HASH_BYTES))
"""What the first entry follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record in its place.

    Args:
        seq: Its number, from 1.
        prev: The hash of the entry before it.
        hash: Its own.
        record: What is recorded.

    Attributes:
        canonical: The record's canonical JSON, kept by :func:`link`, which has made it for the hash. An entry
            that was read has none: what its record hashes to is for :func:`verify` to find out.
    """

    seq: int
    prev: bytes
    hash: bytes
    record: Mapping[str, object]
    canonical: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def head(self) -> Head:
        """The chain's head if this entry is the last."""
        return Head(seq=self.seq, hash=self.hash)

    def document(self) -> dict[str, object]:
        """Return the entry as it travels: ``{"seq","prev","hash","record"}``, hashes in hex."""
        return {
            "seq": self.seq,
            "prev": self.prev.hex(),
            "hash": self.hash.hex(),
            "record": dict(self.record),
        }

    def line(self) -> bytes:
        """Return the entry as it rests: canonical JSON and a line feed."""
        record = canonical_json(self.record) if self.canonical is None else self.canonical
        prev, own = self.prev.hex().encode(), self.hash.hex().encode()
        return b'{"hash":"%b","prev":"%b","record":%b,"seq":%d}\n' % (own, prev, record, self.seq)


def canonical_json(value: object) -> bytes:
    """Return canonical JSON (RFC 8785) of strings, integers, booleans, null, arrays and objects.

    Raises:
        FormatError: It holds anything else, or text that is no Unicode.
    """
    text = _SORTING.encode(value) if _has_ascii_names(value) else _ENCODER.encode(_ordered(value))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError("audit record: a string holds a lone surrogate") from error


def link(head: Head, record: Mapping[str, object]) -> Entry:
    """Return the entry that puts a record after ``head``.

    Raises:
        FormatError: The record cannot be written canonically.
    """
    canonical = canonical_json(record)
    entry = Entry(seq=head.seq + 1, prev=head.hash, hash=_hash(head.hash, canonical), record=record)
    object.__setattr__(entry, "canonical", canonical)
    return entry


def parse_entry(line: bytes | str, *, where: str) -> Entry:
    """Read an entry, without judging its hashes.

    Raises:
        FormatError: It is none.
    """
    if len(line) > MAX_LINE_BYTES:
        raise FormatError(f"{where}: expected at most {MAX_LINE_BYTES} bytes, found {len(line)}")
    return read_entry(strict_json.loads(line, where=where), where=where)


def read_entry(value: object, *, where: str) -> Entry:
    """Read an entry from the JSON value that :meth:`Entry.document` makes; as :func:`parse_entry`.

    Raises:
        FormatError: It is none.
    """
    if not isinstance(value, Mapping) or value.keys() != {"seq", "prev", "hash", "record"}:
        raise FormatError(f"{where}: expected an object of seq, prev, hash and record")
    seq, record = value["seq"], value["record"]
    if type(seq) is not int or not 1 <= seq <= MAX_INTEGER:
        raise FormatError(f"{where}: /seq: expected an integer from 1")
    if not isinstance(record, Mapping):
        raise FormatError(f"{where}: /record: expected an object, found {type(record).__name__}")
    return Entry(
        seq=seq,
        prev=_digest(value["prev"], where=f"{where}: /prev"),
        hash=_digest(value["hash"], where=f"{where}: /hash"),
        record=record,
    )


def read_anchor(text: str, *, where: str) -> Head:
    """Read an anchor as people keep it, ``SEQ:HASH`` with the hash in hex.

    Raises:
        FormatError: It is none.
    """
    seq, _, digest = text.partition(":")
    if not re.fullmatch(r"[0-9]{1,15}", seq):
        raise FormatError(f"{where}: expected SEQ:HASH")
    return Head(seq=int(seq), hash=_digest(digest, where=where))


def verify(entries: Iterable[Entry], *, start: Head = START, anchors: Iterable[Head] = ()) -> Head:
    """Verify that entries follow ``start`` and each other.

    Args:
        entries: In order; read one at a time.
        start: The head of what was verified before.
        anchors: Entries known from elsewhere. One at or before ``start`` is not looked at, except ``start``
            itself; all others must be among the entries.

    Returns:
        The head: what the next entries have to follow, and worth keeping as an anchor.

    Raises:
        VerificationError: Naming the entry. ``audit_gap``: another number than the next one.
            ``audit_unlinked``: it follows another entry than the one before it. ``audit_changed``: its hash
            is not that of its record. ``audit_rewritten``: another entry stands where an anchor says.
            ``audit_truncated``: the chain ends before an anchor.
    """
    known = {anchor.seq: anchor.hash for anchor in anchors if anchor.seq >= start.seq}
    head = start
    _compare(head, known)
    for entry in entries:
        head = _follow(head, entry)
        _compare(head, known)
    missing = [seq for seq in known if seq > head.seq]
    if missing:
        raise VerificationError(
            f"audit entry {max(missing)}: known from an anchor, and the chain ends at {head.seq}",
            code="audit_truncated",
        )
    return head


def _follow(head: Head, entry: Entry) -> Head:
    place = f"audit entry {entry.seq}"
    if entry.seq != head.seq + 1:
        raise VerificationError(f"{place}: expected entry {head.seq + 1} here", code="audit_gap")
    if entry.prev != head.hash:
        raise VerificationError(
            f"{place}: expected it to follow {head.hash.hex()}, found {entry.prev.hex()}",
            code="audit_unlinked",
        )
    try:
        expected = _hash(entry.prev, canonical_json(entry.record))
    except FormatError as error:
        raise VerificationError(f"{place}: {error}", code="audit_changed") from error
    if entry.hash != expected:
        raise VerificationError(
            f"{place}: its record hashes to {expected.hex()}, found {entry.hash.hex()}", code="audit_changed"
        )
    return entry.head


def _compare(head: Head, known: Mapping[int, bytes]) -> None:
    expected = known.get(head.seq, head.hash)
    if head.hash != expected:
        raise VerificationError(
            f"audit entry {head.seq}: an anchor says {expected.hex()}, found {head.hash.hex()}",
            code="audit_rewritten",
        )


def _hash(prev: bytes, canonical: bytes) -> bytes:
    return hashlib.sha256(prev + canonical).digest()


def _digest(value: object, *, where: str) -> bytes:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise FormatError(f"{where}: expected 64 lower-case hex digits")
    return bytes.fromhex(value)


def _has_ascii_names(value: object) -> bool:
    """Refuse what has no canonical form here; say whether :mod:`json` sorts its names as RFC 8785 does.

    The RFC sorts by UTF-16 code units and Python by code points, which is the same for ASCII.
    """
    if value is None or isinstance(value, str):
        return True
    if isinstance(value, int):  # booleans, too
        if abs(value) > MAX_INTEGER:
            raise FormatError("audit record: holds an integer above 2^53")
        return True
    if isinstance(value, dict | Mapping):
        try:
            plain = "".join(value).isascii() and isinstance(value, dict)
        except TypeError as error:
            raise FormatError("audit record: a name is no string") from error
        for each in value.values():
            if each is not None and type(each) is not str:
                plain &= _has_ascii_names(each)
        return plain
    if isinstance(value, list | tuple):
        return all([_has_ascii_names(each) for each in value])  # noqa: C419 - each of them is to be looked at
    raise FormatError(f"audit record: holds a {type(value).__name__}")


def _ordered(value: object) -> object:
    if isinstance(value, Mapping):
        names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        return {name: _ordered(value[name]) for name in names}
    if isinstance(value, list | tuple):
        return [_ordered(each) for each in value]
    return value
