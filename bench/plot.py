"""Draw what ``package.py`` measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

_GROUPS = {
    "limits": ("sha256", "openssl_dgst", "copy_durable"),
    "build, nothing written": (
        "build_1_thread",
        "build",
        "build_signed",
        "build_recommended",
        "age",
        "age_and_digest",
    ),
    "verify": (
        "verify_1_thread",
        "verify",
        "verify_signed",
        "verify_recommended",
        "age_open",
        "age_open_and_digest",
    ),
    "install, nothing written": ("install_1_thread", "install", "install_signed", "install_recommended"),
    "on the disk, synced": (
        "build_durable",
        "build_signed_durable",
        "age_durable",
        "install_durable",
        "age_install_durable",
    ),
}
_OURS, _OTHERS = "#2b6cb0", "#a0aec0"


def draw(document: dict[str, Any], path: Path) -> None:
    """Write a PNG: a bar for each contender, its whisker from the slowest to the fastest round."""
    contenders = document["contenders"]
    figure, axes = plt.subplots(figsize=(9, 8.5), layout="constrained")
    labels, place = [], 0.0
    for group, names in _GROUPS.items():
        place += 0.6
        axes.text(0, place - 0.45, group, fontsize=9, fontweight="bold", va="bottom")
        place += 0.2
        for name in names:
            rate = contenders[name]["gigabytes_per_second"]
            reach = [[rate["median"] - rate["min"]], [rate["max"] - rate["median"]]]
            ours = name.startswith(("build", "verify", "install"))
            axes.barh(place, rate["median"], color=_OURS if ours else _OTHERS, height=0.8)
            axes.errorbar(rate["median"], place, xerr=reach, color="black", linewidth=0.8, capsize=2)
            axes.text(rate["max"] + 0.02, place, f"{rate['median']:.2f}", va="center", fontsize=8)
            labels.append((place, contenders[name]["what"]))
            place += 1
    axes.axvline(contenders["sha256"]["gigabytes_per_second"]["median"], color="#c05621", linestyle="--")
    axes.set_yticks([each for each, _ in labels], [text for _, text in labels], fontsize=8)
    axes.invert_yaxis()
    machine = document["machine"]
    axes.set_xlabel(
        f"GB/s of payload; {document['payload_bytes'] / 2**30:g} GiB, median, min and max of "
        f"{document['rounds']} rounds; dashed: SHA-256 alone on one core"
    )
    axes.set_title(
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}", fontsize=10
    )
    figure.savefig(path, dpi=120)
