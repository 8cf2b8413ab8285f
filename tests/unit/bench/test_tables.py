"""The tables of the documentation are what was measured, and nothing that somebody typed."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GUIDE, FIGURES = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance" / "package.json"


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("bench_tables", ROOT / "bench" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def document(tables):
    spread = {"median": 1.0, "min": 0.5, "max": 2.0}
    names = ["processor", "system", "python", "cryptography", "cryptography_openssl", "openssl", "age"]
    contender = {"gigabytes_per_second": spread, "cpu_seconds_per_gigabyte": spread, "other_cores": spread}
    ratios = {*tables.TARGETS, *(name for row in tables.ROWS.values() for name in row if name)}
    return {
        **dict.fromkeys(ratios, spread),
        "machine": {**{name: name for name in names}, "cores": 2},
        "payload_bytes": 512 << 20,
        "rounds": 7,
        "contenders": {name: {"what": name, **contender} for name in tables.ROWS},
        "memory": {
            "payload_bytes": 8 << 30,
            "peak_mib": dict.fromkeys(["interpreter", "build", "verify", "excess"], spread),
        },
    }


def test_the_guide_holds_the_committed_figures_and_no_others(tables):
    measured = json.loads(FIGURES.read_text()) if FIGURES.exists() else None
    text = GUIDE.read_text()

    assert tables.fill(text, measured) == text


def test_blocks_are_filled_and_the_rest_is_left_alone(tables, document):
    text = tables.fill(GUIDE.read_text(), document)

    assert "| build | 1.00 (0.50-2.00) | 1.00 (0.50-2.00) | 1.00 (0.50-2.00) | 1.00 (0.50-2.00) |" in text
    assert "Payload 512 MiB, 7 rounds" in text
    assert "| `cpk-tool build`, signed, 8 GiB | 1.0 (0.5-2.0) |" in text
    assert tables.fill(text, document) == text
    assert tables.fill(text, None) == tables.fill(GUIDE.read_text(), None)


def test_a_target_that_was_missed_is_said_to_be(tables, document):
    document["build_over_sha_limit"] = {"median": 0.89, "min": 0.8, "max": 0.95}
    document["rss_over_interpreter_mb"] = {"median": 16.1, "min": 16.0, "max": 17.0}

    text = tables.targets(document)

    assert "| build, digest on a thread, over SHA-256 alone | ≥ 0.9 | 0.89 (0.80-0.95) | no |" in text
    assert "| peak memory over the interpreter's, MiB | ≤ 16 | 16.10 (16.00-17.00) | no |" in text
    assert "| install, one thread, over the machine's limit | ≥ 0.85 | 1.00 (0.50-2.00) | yes |" in text


def test_a_document_without_a_block_is_told(tables, document):
    with pytest.raises(ValueError, match="expected one block package-speed, found 0"):
        tables.fill("", document)
