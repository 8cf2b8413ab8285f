"""Every vector of ``tests/vectors/cpk`` against the reader, through the CPM's and cpk-tool's own calls."""

import hashlib
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cpk_tool.key_files import FileKeyStore
from shared.certificate_paths import TrustStore
from shared.certificates import load_certificates
from shared.cpk.opening import Requirements, Trust, inspect_package, open_package
from shared.errors import FormatError, KeyUnavailable, VerificationError

FOLDER = Path(__file__).parent / "cpk"
VECTORS = {path.stem: path for path in sorted(FOLDER.glob("*.cpk"))}
AT = datetime(2026, 11, 20, tzinfo=UTC)


def load(name):
    return json.loads((FOLDER / f"{name}.json").read_text()), VECTORS[name].read_bytes()


def inspected(data):
    try:
        inspect_package(io.BytesIO(data), len(data))
    except FormatError:
        return "malformed"
    return "ok"


def trust_of(name, expected):
    """Return what a vector is to be judged by: its set's roots, and what else it names."""
    folder = read_with(name)
    told = expected.get("verifier", {})
    device = told.get("device_certificates", {})
    fetched = told.get("fetched_certificates", {})
    return Trust(
        roots=TrustStore.from_pem((FOLDER / f"{folder}trust.pem").read_bytes(), where="trust.pem"),
        pinned_keys=frozenset(map(bytes.fromhex, told.get("pinned_keys", ()))),
        device_certificates={
            domain: load_certificates((FOLDER / file).read_bytes(), where=file)
            for domain, file in device.items()
        },
        fetched_certificates={url: (FOLDER / file).read_bytes() for url, file in fetched.items()},
    )


def read_with(name):
    return name[:2] if name.startswith(("x-", "y-")) else ""


def verified(name, data, expected, *, parallel=None):
    store = FileKeyStore.load(FOLDER / f"{read_with(name)}keys.json")
    told = expected.get("verifier", {})
    clear = hashlib.sha256()
    try:
        opened = open_package(
            io.BytesIO(data),
            len(data),
            class_key=lambda reference: store.get(reference.name),
            trust=trust_of(name, expected),
            at=AT,
            requirements=Requirements(package_signature=told.get("require_package_signature", False)),
            sink=clear.update,
            parallel=parallel,
        )
    except FormatError:
        return "malformed", None, None
    except (VerificationError, KeyUnavailable) as error:
        return "refused", error.code, None
    assert opened.payload_sha256 in {clear.digest(), None}
    return "ok", None, clear.hexdigest()


def test_there_are_vectors():
    assert len(VECTORS) >= 280
    assert all((FOLDER / f"{name}.json").is_file() for name in VECTORS)


@pytest.mark.parametrize("name", VECTORS)
def test_inspect_says_what_the_vector_expects(name):
    expected, data = load(name)
    assert inspected(data) == expected["inspect"], expected["what"]


@pytest.mark.parametrize("parallel", [False, True], ids=["inline", "threads"])
@pytest.mark.parametrize("name", VECTORS)
def test_verify_says_what_the_vector_expects(name, parallel):
    expected, data = load(name)
    outcome, code, clear = verified(name, data, expected, parallel=parallel)
    assert outcome == expected["verify"], expected["what"]
    assert code == expected.get("code", code), expected["what"]
    assert clear == expected.get("plaintext_sha256")
