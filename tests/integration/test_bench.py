"""The benchmark runs as its documentation says, at a size whose figures nobody looks at."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIGURES = [
    "build_over_sha_limit",
    "build_over_age_and_digest",
    "install_over_limit",
    "rss_over_interpreter_mb",
]


def test_it_writes_figures_a_plot_and_the_tables(tmp_path):
    figures, plot, guide = tmp_path / "package.json", tmp_path / "package.png", tmp_path / "performance.md"
    shutil.copy(ROOT / "docs" / "performance.md", guide)
    small = ["--size", "1M", "--rounds", "1", "--memory-size", "1M", "--folder", str(tmp_path)]
    output = ["--json", str(figures), "--plot", str(plot), "--markdown", str(guide)]

    subprocess.run([sys.executable, ROOT / "bench" / "package.py", *small, *output], check=True)

    document = json.loads(figures.read_text())
    for name in FIGURES:
        figure = document[name]
        assert figure["min"] <= figure["median"] <= figure["max"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "Payload 1 MiB, 1 rounds" in guide.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([figures.name, plot.name, guide.name])


@pytest.mark.timeout(600)
def test_a_small_fleet_is_measured_and_takes_no_call_too_many(tmp_path):
    figures, plot, guide = tmp_path / "fleet.json", tmp_path / "fleet.png", tmp_path / "performance.md"
    shutil.copy(ROOT / "docs" / "performance.md", guide)
    small = ["--devices", "20", "--pair", "10", "--rounds", "1", "--folder", str(tmp_path)]
    output = ["--json", str(figures), "--plot", str(plot), "--markdown", str(guide)]

    subprocess.run([sys.executable, ROOT / "bench" / "fleet.py", *small, *output], check=True)

    document = json.loads(figures.read_text())
    for figure in (*document["devices_per_s_core"].values(), document["over_reference"]):
        assert 0 < figure["min"] <= figure["median"] <= figure["max"]
    assert document["first"]["10"]["wraps"] == 10
    assert document["first"]["10"]["audit_records"] == 1
    assert document["first"]["10"]["unwraps_in_all"] == 9  # the tenth was opened for the first one
    for distribution in (*document["first"].values(), document["rotation"]):
        assert distribution["twin_reads"] == distribution["twin_writes"] == distribution["signatures"] == 1
    unchanged = {name: document[f"unchanged_{name}"] for name in ("writes", "wraps", "signatures", "unwraps")}
    assert unchanged == dict.fromkeys(unchanged, 0)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "20 devices. " in guide.read_text()


@pytest.mark.timeout(600)
def test_devices_are_timed_from_their_report_to_their_key(tmp_path):
    figures, plot = tmp_path / "time.json", tmp_path / "time.png"
    output = ["--json", str(figures), "--plot", str(plot)]

    subprocess.run([sys.executable, ROOT / "bench" / "time_to_key.py", "--devices", "3", *output], check=True)

    document = json.loads(figures.read_text())
    assert document["n"] == document["acknowledged"]["n"] == document["rotation"]["n"] == 3
    assert 0 < document["p50_ms"] <= document["p99_ms"] <= document["acknowledged"]["max_ms"]
    assert plot.read_bytes().startswith(b"\x89PNG")
