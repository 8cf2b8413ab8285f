"""The project's promises about itself: one-way imports, complete locks, links that lead somewhere."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    if ".venv" not in path.parts
)


def test_imports_run_one_way():
    linter = Path(sys.executable).with_name("lint-imports")

    result = subprocess.run(
        [linter, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


def _names(requirements: list[str]) -> set[str]:
    names = {re.split(r"[\[><=~! ;]", requirement, maxsplit=1)[0].lower() for requirement in requirements}
    return names - {PROJECT["name"]}


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("requirements.txt", ["functions"]),
        ("requirements-dev.txt", ["agent", "functions", "local", "tool", "dev"]),
    ],
)
def test_lock_pins_every_direct_dependency_with_hashes(lock, extras):
    wanted = _names(PROJECT["dependencies"])
    for extra in extras:
        wanted |= _names(PROJECT["optional-dependencies"][extra])
    text = (ROOT / lock).read_text()
    pinned = set(re.findall(r"^([a-z0-9-]+)(?:\[[a-z0-9,-]+\])?==", text, re.MULTILINE))

    assert wanted - pinned == set()
    assert len(re.findall(r"^[a-z0-9.-]+(?:\[[a-z0-9,-]+\])?==", text, re.MULTILINE)) <= text.count(
        "--hash=sha256:"
    )


def test_function_app_lock_stays_free_of_the_device_and_the_local_cloud():
    pinned = set(
        re.findall(
            r"^([a-z0-9-]+)(?:\[[a-z0-9,-]+\])?==", (ROOT / "requirements.txt").read_text(), re.MULTILINE
        )
    )

    assert not pinned & {"azure-iot-device", "aiohttp", "pytest", "rich"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document):
    targets = re.findall(r"\]\((?!https?:|mailto:)([^)#]+)(?:#[^)]*)?\)", document.read_text())

    missing = [target for target in targets if not (document.parent / target).exists()]
    assert missing == []
