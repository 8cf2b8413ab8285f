"""``edb audit verify``: whether the audit log is whole: no record changed, removed, inserted or moved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edb.key_service import key_service
from edb.options import add_connection, add_json
from shared.audit.chain import MAX_LINE_BYTES, Entry, Head, parse_entry, read_anchor, read_entry, verify
from shared.command_line.output import DONE, print_json, print_line
from shared.errors import FormatError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Verify the chain of the audit log, from its first record to its last.\n\n"
        "A record that was changed, removed, inserted or moved is found and named. The end of a chain can\n"
        "be cut off, or all of it be written anew, without a trace in itself: keep the head that this\n"
        "prints somewhere else, and give it as an anchor the next time."
    )
    add = parser.add_argument
    add(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="a copy of the log, one entry a line; else the service's",
    )
    add("--anchor", action="append", default=[], metavar="SEQ:HASH", help="a head printed before; repeatable")
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb audit verify --json | jq -r .head > head    # on another machine, kept for the next time\n"
        '  edb audit verify --anchor "$(cat head)"\n'
        "  edb audit verify audit.jsonl\n"
        "\n"
        "exit status:\n"
        "  0 whole, 3 not"
    )


def run(options: argparse.Namespace) -> int:
    """Verify the chain."""
    anchors = [read_anchor(text, where="--anchor") for text in options.anchor]
    if options.file is not None:
        head = verify(_entries_of(options.file), anchors=anchors)
    else:
        with key_service(options) as service:
            entries = (read_entry(each, where="answer: audit") for each in service.audit(after=0))
            head = verify(entries, anchors=anchors)
    shown = _shown(head)
    if options.json:
        print_json({"result": "ok", "records": head.seq, "head": shown})
    else:
        print_line(f"{head.seq} records, an unbroken chain; head {shown}")
    return DONE


def _entries_of(path: Path) -> Iterator[Entry]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 2):
            number += 1
            if not line.endswith(b"\n"):
                raise FormatError(f"{path}: line {number}: expected an entry and a line feed")
            yield parse_entry(line[:-1], where=f"{path}: line {number}")


def _shown(head: Head) -> str:
    return f"{head.seq}:{head.hash.hex()}"
