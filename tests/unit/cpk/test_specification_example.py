"""The worked examples of the format's specification are what the writer writes and the reader reads."""

import io
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.certificate_paths import TrustStore
from shared.cpk.manifest import Target, Version
from shared.cpk.package import inspect_package
from shared.cpk.profiles import RECOMMENDED, REFERENCE
from shared.cpk.sealing import ClassKey, Description, seal_package
from shared.cpk.signing_keys import KeySigner
from shared.cpk.trust import Trust
from shared.types import KeyName, Secret

SPECIFICATION = Path(__file__).parents[3] / "docs" / "spec" / "cpk-format.md"
NONCES = {REFERENCE: bytes(range(12)), RECOMMENDED: bytes(range(0x20, 0x47))}


def worked_examples():
    text = SPECIFICATION.read_text()
    shown = re.findall(r"```hex\n(.*?)```", text, re.DOTALL)
    manifests = re.findall(r"```json\n(.*?)\n```", text, re.DOTALL)
    return [
        bytes.fromhex(re.sub(r"#.*", "", bytes_shown)) + manifest.encode()
        for bytes_shown, manifest in zip(shown, manifests, strict=True)
    ]


@pytest.fixture
def signer():
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return KeySigner.load(key, spki, where="key")


@pytest.mark.parametrize(("number", "profile"), [(0, REFERENCE), (1, RECOMMENDED)])
def test_writer_writes_the_worked_example(signer, number, profile):
    output = io.BytesIO()
    seal_package(
        io.BytesIO(b"hello"),
        5,
        output,
        description=Description(
            id="app",
            name="App",
            vendor="",
            target=Target(arch="any", os="any"),
            version=Version(major=1, minor=0, revision=0, date=datetime(2026, 11, 20, 12, tzinfo=UTC)),
        ),
        class_key=ClassKey(name=KeyName("app"), version=1, key=Secret(bytes(range(32)))),
        nonce=NONCES[profile],
        signer=signer if profile is RECOMMENDED else None,
        profile=profile,
    )

    assert output.getvalue() == worked_examples()[number]


def test_reader_reads_the_worked_examples(bench, signer):
    unsigned, signed = worked_examples()
    pinned = Trust(roots=TrustStore(roots=()), pinned_keys=frozenset({signer_pin(signer)}))

    assert inspect_package(io.BytesIO(unsigned), len(unsigned)).manifest.id == "app"
    assert bench.open(unsigned, payload_signature=False)[1] == b"hello"
    assert bench.open(signed, trust=pinned, package_signature=True)[1] == b"hello"


def signer_pin(signer):
    package = inspect_package(io.BytesIO(worked_examples()[1]), len(worked_examples()[1]))
    assert package.public_keys[5].spki == signer.certification.data
    return package.public_keys[5].sha256
