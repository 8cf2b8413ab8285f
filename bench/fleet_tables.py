"""Write what ``fleet.py`` measured into a document, between its markers, so that no figure is typed.

python bench/fleet_tables.py docs/performance/fleet.json docs/performance.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tables import spread_text, table, write

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tables import Blocks

MOST_UNCHANGED_US = 10.0
LEAST_DEVICES = 1000.0
LEAST_PAIR = 1.8
CACHE_SECONDS = 60
"""How long the app keeps an opened class key at most."""


def speed(document: Mapping[str, Any]) -> str:
    """Return the machine, and the table of rates."""
    machine = document["machine"]
    head = ("", "devices/s of a core", "bare cryptography", "over bare")
    first = [
        (f"first distribution, {keys} {'key' if keys == '1' else 'keys'}", each)
        for keys, each in document["first"].items()
    ]
    rotation = (f"rotation of one of {document['keys']} keys", document["rotation"])
    rows = [
        (
            what,
            spread_text(each["devices_per_s_core"], digits=0),
            spread_text(each["bare_devices_per_s_core"], digits=0),
            spread_text(each["over_bare"]),
        )
        for what, each in (*first, rotation)
    ]
    versions = f"Python {machine['python']}, cryptography {machine['cryptography']}"
    lines = [
        f"{document['devices']:,} devices. {machine['cores']} cores, {machine['system']}, {versions}.",
        "",
        *table(head, rows),
        "",
        "![CPU time for each device](performance/fleet.png)",
    ]
    return "\n".join(lines) + "\n"


def targets(document: Mapping[str, Any]) -> str:
    """Return the table of targets, each with what was measured."""
    keys = str(document["keys"])
    rate, unchanged = document["devices_per_s_core"][keys], document["unchanged_us_per_device"]
    pair, writes = document["two_processes_over_one"], document["unchanged_writes"]
    first = document["first"][keys]
    unwraps = document["keys"] * (1 + int(first["seconds"] // CACHE_SECONDS))
    nothing = writes + document["unchanged_wraps"] + document["unchanged_signatures"]
    signed = spread_text_of(first["signatures"])
    rows = (
        _row(
            f"first distribution of {keys} keys, devices/s of a core",
            f"≥ {LEAST_DEVICES:g}",
            spread_text(rate, digits=0),
            reached=rate["median"] >= LEAST_DEVICES,
        ),
        _row(
            "two processes over one",
            f"≥ {LEAST_PAIR:g}",
            spread_text(pair),
            reached=pair["median"] >= LEAST_PAIR,
        ),
        _row(
            "unchanged fleet, CPU for each device, µs",
            f"≤ {MOST_UNCHANGED_US:g}",
            spread_text(unchanged),
            reached=unchanged["median"] <= MOST_UNCHANGED_US,
        ),
        _row("unchanged fleet: wraps, signatures and twin writes", "0", f"{nothing}", reached=nothing == 0),
        _row(
            f"unwraps of {keys} key versions in {first['seconds']:.0f} s, one of each a minute",
            f"≤ {unwraps}",
            f"{first['unwraps_in_all']}",
            reached=first["unwraps_in_all"] <= unwraps,
        ),
        _row("signatures for each device written", "1", signed, reached=first["signatures"] == 1),
    )
    return "\n".join(table(("", "target", "measured", "reached"), rows)) + "\n"


def costs(document: Mapping[str, Any]) -> str:
    """Return the tables of calls and bytes, of two processes, of memory and of the reference."""
    columns = {
        **{f"first, {keys}": each for keys, each in document["first"].items()},
        "rotation": document["rotation"],
    }
    rows = [
        (what, *(spread_text_of(each[name]) for each in columns.values()))
        for name, what in {
            "twin_reads": "twins read",
            "twin_writes": "twins written",
            "wraps": "keys wrapped",
            "signatures": "signatures of the vault",
            "audit_records": "audit records",
            "bytes_read": "bytes of twins and query rows",
            "bytes_written": "bytes of patches",
            "unwraps_in_all": "unwraps of the vault, in all",
            "envelope_reads_in_all": "envelopes read from the vault, in all",
        }.items()
    ]
    beside = (
        ("two processes over one", spread_text(document["two_processes_over_one"])),
        ("the same by CPU time", spread_text(document["two_processes_cpu"])),
        ("the same of bare cryptography", spread_text(document["two_processes_bare"])),
        ("cores that others took meanwhile", spread_text(document["two_processes_other_cores"])),
        *(
            (f"a process has grown after {int(devices):,} devices, MiB", f"{grown:.1f}")
            for devices, grown in document["worker_mib"].items()
        ),
        ("bytes of a query row of an unchanged device", f"{document['unchanged_row_bytes']:.0f}"),
        (
            "the reference's pass, CPU for each device, µs",
            spread_text(document["reference_us_per_device"], digits=0),
        ),
        ("the reference's pass over our unchanged one", spread_text(document["over_reference"], digits=0)),
        ("the reference's pass over our first distribution", spread_text(document["first_over_reference"])),
    )
    lines = [*table(("for each device", *columns), rows), "", *table(("", ""), beside)]
    return "\n".join(lines) + "\n"


BLOCKS: Blocks = {"fleet-speed": speed, "fleet-targets": targets, "fleet-costs": costs}


def spread_text_of(figure: float) -> str:
    """Return a figure that has no spread: whole if it is, else to two digits."""
    return f"{figure:g}" if float(figure).is_integer() else f"{figure:.2f}"


def _row(what: str, target: str, measured: str, *, reached: bool) -> tuple[str, ...]:
    return (what, target, measured, "yes" if reached else "no")


if __name__ == "__main__":
    figures, guide = map(Path, sys.argv[1:])
    write(guide, json.loads(figures.read_text()), BLOCKS)
