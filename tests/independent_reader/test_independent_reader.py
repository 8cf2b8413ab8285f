"""A reader that shares nothing with the project comes to the vectors' results."""

import ast
import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDER = HERE.parent / "vectors" / "cpk"
VECTORS = sorted(FOLDER.glob("*.cpk"))
sys.path.insert(0, str(HERE))  # the reader's modules import each other as a program's do

from crypto import Malformed, Refused, load_chain  # noqa: E402 - as above
from read_cpk import Package, Verifier, load_keys, open_package  # noqa: E402 - as above


def verifier_for(path, told):
    folder = path.name[:2] if path.name[:2] in {"x-", "y-"} else ""

    def contents(files):
        return {name: (FOLDER / file).read_bytes() for name, file in files.items()}

    return Verifier(
        keys=load_keys(FOLDER / f"{folder}keys.json"),
        roots=load_chain((FOLDER / f"{folder}trust.pem").read_bytes(), pem=True),
        at=datetime(2026, 11, 20, tzinfo=UTC),
        pinned_keys=told.get("pinned_keys", []),
        device_certificates=contents(told.get("device_certificates", {})),
        fetched_certificates=contents(told.get("fetched_certificates", {})),
        require_package_signature=told.get("require_package_signature", False),
    )


def result_of(path, told):
    """Return what the vector's description would say."""
    try:
        package = Package(path.read_bytes())
    except Malformed:
        return {"inspect": "malformed", "verify": "malformed"}
    try:
        clear = open_package(package, verifier_for(path, told))
    except Refused as error:
        return {"inspect": "ok", "verify": "refused", "code": str(error)}
    return {"inspect": "ok", "verify": "ok", "plaintext_sha256": hashlib.sha256(clear).hexdigest()}


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_the_independent_reader_comes_to_the_vectors_result(path):
    expected = json.loads(path.with_suffix(".json").read_text())
    result = result_of(path, expected.get("verifier", {}))
    if "code" not in expected:
        result.pop("code", None)

    told = ("inspect", "verify", "code", "plaintext_sha256")
    assert result == {name: expected[name] for name in told if name in expected}, expected["what"]


def test_the_reader_imports_the_standard_library_and_cryptography_alone():
    own = {path.stem for path in HERE.glob("*.py")}
    roots = set()
    for path in (HERE / "read_cpk.py", HERE / "structure.py", HERE / "crypto.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots.add(node.module.split(".")[0])

    assert roots - own - set(sys.stdlib_module_names) == {"cryptography"}
