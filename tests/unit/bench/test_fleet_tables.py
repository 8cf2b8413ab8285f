"""The tables of distribution are what was measured, and nothing that somebody typed."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GUIDE, FIGURES = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance" / "fleet.json"


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        yield importlib.import_module("tables"), importlib.import_module("fleet_tables")
    finally:
        sys.path.remove(str(ROOT / "bench"))


@pytest.fixture
def fill(modules):
    tables, fleet_tables = modules
    return lambda text, document: tables.fill(text, document, fleet_tables.BLOCKS)


@pytest.fixture
def document():
    spread = {"median": 1200.0, "min": 1100.0, "max": 1300.0}
    each = {
        "devices_per_s_core": spread,
        "bare_devices_per_s_core": {"median": 2400.0, "min": 2300.0, "max": 2500.0},
        "over_bare": {"median": 0.5, "min": 0.45, "max": 0.55},
        "seconds": 130.0,
        "twin_reads": 1.0,
        "twin_writes": 1.0,
        "wraps": 10.0,
        "signatures": 1.0,
        "audit_records": 10.0,
        "unwraps_in_all": 10,
        "envelope_reads_in_all": 10,
        "bytes_read": 4321.5,
        "bytes_written": 7000.0,
    }
    ratio = {"median": 1.9, "min": 1.85, "max": 1.95}
    return {
        "devices": 100_000,
        "keys": 10,
        "first": {"1": each, "10": each},
        "rotation": each,
        "devices_per_s_core": {"1": spread, "10": spread},
        "unchanged_us_per_device": {"median": 7.0, "min": 6.5, "max": 7.5},
        "unchanged_writes": 0,
        "unchanged_wraps": 0,
        "unchanged_signatures": 0,
        "unchanged_row_bytes": 412.3,
        "two_processes_over_one": ratio,
        "two_processes_bare": ratio,
        "two_processes_cpu": ratio,
        "two_processes_other_cores": ratio,
        "worker_mib": {"1000": 1.5, "5000": 1.6},
        "reference_us_per_device": spread,
        "over_reference": ratio,
        "first_over_reference": ratio,
        "machine": {"cores": 2, "system": "Linux 6", "python": "3.11", "cryptography": "50"},
    }


def test_the_guide_holds_the_committed_figures_and_no_others(fill):
    measured = json.loads(FIGURES.read_text()) if FIGURES.exists() else None
    text = GUIDE.read_text()

    assert fill(text, measured) == text


def test_blocks_are_filled_and_the_rest_is_left_alone(fill, document):
    text = fill(GUIDE.read_text(), document)

    assert "100,000 devices. 2 cores" in text
    first = "| first distribution, 10 keys | 1200 (1100-1300) | 2400 (2300-2500) | 0.50 (0.45-0.55) |"
    assert first in text
    assert "| bytes of twins and query rows | 4321.50 | 4321.50 | 4321.50 |" in text
    assert fill(text, document) == text
    assert fill(text, None) == fill(GUIDE.read_text(), None)


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({}, "| unchanged fleet: wraps, signatures and twin writes | 0 | 0 | yes |"),
        ({}, "| two processes over one | ≥ 1.8 | 1.90 (1.85-1.95) | yes |"),
        ({}, "| unwraps of 10 key versions in 130 s, one of each a minute | ≤ 30 | 10 | yes |"),
        (
            {"unchanged_writes": 3},
            "| unchanged fleet: wraps, signatures and twin writes | 0 | 3 | no |",
        ),
        (
            {"two_processes_over_one": {"median": 1.79, "min": 1.7, "max": 1.9}},
            "| two processes over one | ≥ 1.8 | 1.79 (1.70-1.90) | no |",
        ),
        (
            {"devices_per_s_core": {"10": {"median": 999.0, "min": 900.0, "max": 1000.0}}},
            "| first distribution of 10 keys, devices/s of a core | ≥ 1000 | 999 (900-1000) | no |",
        ),
    ],
)
def test_a_target_is_said_to_be_reached_or_missed(modules, document, changes, row):
    assert row in modules[1].targets({**document, **changes})
