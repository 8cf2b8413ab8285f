"""Write what ``package.py`` measured into a document, between its markers, so that no figure is typed.

    python bench/tables.py docs/performance/package.json docs/performance.md

A block begins with ``<!-- package-speed -->`` and ends with ``<!-- /package-speed -->``.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Blocks = Mapping[str, Callable[[Mapping[str, Any]], str]]

TARGETS = {  # ratio: what it says, comparison, bound
    "build_1_thread_over_limit": ("build, one thread, over the machine's limit", ">=", 0.85),
    "build_over_sha_limit": ("build, digest on a thread, over SHA-256 alone", ">=", 0.9),
    "build_over_age_and_digest": ("build over `age` and then `openssl dgst`", ">=", 1.8),
    "build_durable_over_age_and_sync": ("`cpk-tool build`, synced, over `age` and then `sync`", ">=", 1.3),
    "install_1_thread_over_limit": ("install, one thread, over the machine's limit", ">=", 0.85),
    "install_over_limit": ("install, digest on a thread, over the machine's limit", ">=", 0.75),
    "start_over_interpreter": ("`cpk-tool --version` over `python -c pass`, time", "<=", 3.0),
    "rss_over_interpreter_mb": ("peak memory over the interpreter's, MiB", "<=", 16.0),
}
ROWS = {  # contender: the ratios beside it
    "sha256": (),
    "aes_gcm": (),
    "openssl_dgst": (),
    "copy_durable": (),
    "build_1_thread": ("build_1_thread_over_limit", None),
    "build": ("build_over_limit", "build_over_age_and_digest"),
    "build_signed": ("build_signed_over_limit", "build_signed_over_age_and_digest"),
    "build_recommended": ("build_recommended_over_limit", "build_recommended_over_age_and_digest"),
    "age": (),
    "age_and_digest": (),
    "verify_1_thread": ("verify_1_thread_over_limit", None),
    "verify": ("verify_over_limit", "verify_over_age_open_and_digest"),
    "verify_signed": ("verify_signed_over_limit", "verify_signed_over_age_open_and_digest"),
    "verify_recommended": ("verify_recommended_over_limit", "verify_recommended_over_age_open_and_digest"),
    "age_open": (),
    "age_open_and_digest": (),
    "install_1_thread": ("install_1_thread_over_limit", None),
    "install": ("install_over_limit", None),
    "install_signed": ("install_signed_over_limit", None),
    "install_recommended": ("install_recommended_over_limit", None),
    "build_durable": (None, "build_durable_over_age_and_sync"),
    "build_signed_durable": (None, "build_signed_durable_over_age_and_sync"),
    "age_durable": (),
    "install_durable": (None, "install_durable_over_age_and_sync"),
    "age_install_durable": (),
}


def fill(text: str, document: Mapping[str, Any] | None, blocks: Blocks | None = None) -> str:
    """Return ``text`` with every block filled anew; without a document the blocks are empty.

    Args:
        text: The document that holds the blocks.
        document: What was measured.
        blocks: By name, what writes each; by default those of packages.

    Raises:
        ValueError: A block is not there exactly once.
    """
    for name, render in (BLOCKS if blocks is None else blocks).items():
        inner = f"\n{render(document)}\n" if document is not None else ""
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda found, inner=inner: f"{found[1]}{inner}{found[2]}", text)
        if count != 1:
            raise ValueError(f"expected one block {name}, found {count}")
    return text


def speed(document: Mapping[str, Any]) -> str:
    """Return the machine and the table of rates."""
    machine, contenders = document["machine"], document["contenders"]
    others = spread_text(_all([each["other_cores"] for each in contenders.values()]))
    versions = (
        f"Python {machine['python']}, cryptography {machine['cryptography']} "
        f"({machine['cryptography_openssl']}), {machine['openssl']}, age {machine['age']}"
    )
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, {versions}.",
        f"Payload {_size(document['payload_bytes'])}, {document['rounds']} rounds. Other processes took",
        f"{others} cores meanwhile.",
        "",
        *table(("", "GB/s", "CPU s/GB", "over the limit", "over age's way"), _speed_rows(document)),
        "",
        "![The same as bars](performance/package.png)",
    ]
    return "\n".join(lines) + "\n"


def targets(document: Mapping[str, Any]) -> str:
    """Return the table of targets, each with what was measured."""
    rows = []
    for name, (what, comparison, bound) in TARGETS.items():
        median = document[name]["median"]
        reached = median >= bound if comparison == ">=" else median <= bound
        sign = "≥" if comparison == ">=" else "≤"
        rows.append((what, f"{sign} {bound:g}", spread_text(document[name]), "yes" if reached else "no"))
    return "\n".join(table(("", "target", "measured", "reached"), rows)) + "\n"


def memory(document: Mapping[str, Any]) -> str:
    """Return the table of peaks."""
    measured = document["memory"]
    size = _size(measured["payload_bytes"])
    peaks = measured["peak_mib"]
    what = {
        "interpreter": "Python with the same modules imported",
        "build": f"`cpk-tool build`, signed, {size}",
        "verify": f"`cpk-tool verify`, {size}",
        "excess": "the larger of the two over Python",
    }
    rows = [(text, spread_text(peaks[name], digits=1)) for name, text in what.items()]
    return "\n".join(table(("", "peak, MiB"), rows)) + "\n"


BLOCKS: Blocks = {
    "package-speed": speed,
    "package-targets": targets,
    "package-memory": memory,
}


def _speed_rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for name, ratios in ROWS.items():
        each = document["contenders"][name]
        rate, cpu = each["gigabytes_per_second"], each["cpu_seconds_per_gigabyte"]
        beside = [spread_text(document[ratio]) if ratio else "" for ratio in (ratios or (None, None))]
        rows.append((each["what"], spread_text(rate), spread_text(cpu), *beside))
    return rows


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = (head, ["---"] * len(head), *rows)
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines]


def spread_text(figure: Mapping[str, float], *, digits: int = 2) -> str:
    return f"{figure['median']:.{digits}f} ({figure['min']:.{digits}f}-{figure['max']:.{digits}f})"


def _all(spreads: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the middle of the medians, and what none was below and above."""
    medians = sorted(spread["median"] for spread in spreads)
    lowest, highest = min(each["min"] for each in spreads), max(each["max"] for each in spreads)
    return {"median": medians[len(medians) // 2], "min": lowest, "max": highest}


def _size(count: int) -> str:
    unit, name = next(
        (unit, name) for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1, "bytes")) if count >= unit
    )
    return f"{count / unit:g} {name}"


def main() -> None:
    """Fill a document's blocks from a file of figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path, help="what package.py --json wrote")
    parser.add_argument("markdown", type=Path, help="the document to fill")
    options = parser.parse_args()
    write(options.markdown, json.loads(options.json.read_text()))


def write(path: Path, document: Mapping[str, Any], blocks: Blocks | None = None) -> None:
    """Fill the blocks of the document at ``path``; see :func:`fill`."""
    path.write_text(fill(path.read_text(), document, blocks))


if __name__ == "__main__":
    main()
