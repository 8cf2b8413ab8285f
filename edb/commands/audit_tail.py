"""``edb audit tail``: the last audit records, and those to come."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edb.key_service import key_service
from edb.options import add_connection, add_json, count
from edb.output import MESSAGES, print_table
from shared.audit.chain import Entry, read_entry
from shared.command_line.output import DONE, print_line
from shared.errors import TransportError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from edb.key_service import KeyService

INTERVAL_SECONDS = 2.0
"""Between two questions with ``--follow``."""

OUTCOMES = ("allowed", "denied", "failed")

_SHOWN_KEYS = 3
"""Keys of a release that are shown by name."""

_COLUMNS = {
    "time": "time",
    "event": "event",
    "outcome": "outcome",
    "caller": "caller",
    "key_name": "key",
    "key_version": "version",
    "device_id": "device",
    "rule": "rule",
    "reason": "reason",
}
"""A record's members that are shown, with the heads of their columns."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Show the last audit records: who was given or refused what, by which rule, and what was changed.\n\n"
        "The chain is not verified here; `edb audit verify` does."
    )
    add = parser.add_argument
    add("-n", "--lines", type=count, default=20, metavar="N", help="how many; %(default)s by default")
    add("--after", type=count, default=0, metavar="SEQ", help="only those behind this sequence number")
    add("--outcome", choices=OUTCOMES, help="only those with this outcome")
    add("-f", "--follow", action="store_true", help="go on with those to come, until interrupted")
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb audit tail -n 50\n"
        "  edb audit tail --outcome failed                   # also what was set aside, and why\n"
        "  edb audit tail --follow --json | jq -c 'select(.record.outcome == \"denied\") | .record'\n"
        "\n"
        "notes:\n"
        "  --json writes each record as a line of its own, as it stands in the chain."
    )


def run(options: argparse.Namespace) -> int:
    """Show the records."""
    with key_service(options) as service:
        last = options.after
        newest: deque[Entry] = deque(maxlen=options.lines)
        for entry in _read(service, options.after):
            last = entry.seq
            if _is_asked_for(entry, options.outcome):
                newest.append(entry)
        _show(newest, as_json=options.json)
        if options.follow:
            _follow(service, last, outcome=options.outcome, as_json=options.json)
    return DONE


def _is_asked_for(entry: Entry, outcome: str | None) -> bool:
    return outcome is None or entry.record.get("outcome") == outcome


def _follow(service: KeyService, last: int, *, outcome: str | None, as_json: bool) -> None:
    try:
        while True:
            try:
                for entry in _read(service, last):
                    last = entry.seq
                    if _is_asked_for(entry, outcome):
                        _line(entry, as_json=as_json)
                sys.stdout.flush()
            except TransportError as error:
                MESSAGES.warn(str(error))
            time.sleep(INTERVAL_SECONDS)
    except KeyboardInterrupt:
        return


def _read(service: KeyService, after: int) -> Iterator[Entry]:
    for document in service.audit(after=after):
        yield read_entry(document, where="answer: audit")


def _show(entries: Iterable[Entry], *, as_json: bool) -> None:
    if as_json:
        for entry in entries:
            _line(entry, as_json=True)
    else:
        rows = [(entry.seq, *_cells(entry)) for entry in entries]
        print_table(("seq", *_COLUMNS.values()), rows, empty="there is no audit record")
    sys.stdout.flush()


def _line(entry: Entry, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(entry.document(), ensure_ascii=False) + "\n")
    else:
        print_line(f"  {entry.seq}  " + "  ".join(str(cell) for cell in _cells(entry) if cell is not None))


def _cells(entry: Entry) -> tuple[object, ...]:
    record = {**entry.record, **_released(entry.record.get("keys"))}
    return tuple(record.get(column) for column in _COLUMNS)


def _released(keys: object) -> dict[str, object]:
    """Return what is shown of the keys that a device is released, if a record tells of any."""
    if not isinstance(keys, Mapping) or not all(isinstance(key, Mapping) for key in keys.values()):
        return {}
    names, released = list(keys), list(keys.values())
    more = f" and {len(names) - _SHOWN_KEYS} more" if len(names) > _SHOWN_KEYS else ""
    return {
        "key_name": ", ".join(names[:_SHOWN_KEYS]) + more,
        "key_version": ", ".join(str(key.get("version")) for key in released[:_SHOWN_KEYS]),
        "rule": ", ".join(sorted({str(key.get("rule")) for key in released})),
    }
