"""The table in docs/spec/reconciling.md is what the code decides."""

from pathlib import Path

from simulators.reconcile_table import table

DOCUMENT = Path(__file__).parents[3] / "docs" / "spec" / "reconciling.md"


def test_every_situation_in_the_document_is_decided_as_it_says():
    _, _, written = DOCUMENT.read_text().partition("-->\n")
    assert written == table()
