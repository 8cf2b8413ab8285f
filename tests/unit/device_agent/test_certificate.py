"""Certificates are read by a process of their own; what it says comes back as a value or as an error."""

import logging
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from device_agent import certificate_reader
from device_agent.certificate import CertificateFile
from device_agent.certificate_program import answer, parse_certificate
from device_agent.certificate_reader import read_certificate
from local_cloud.certificates import certificate_pem, create_authority, issue_device
from shared.errors import FormatError, TransportError, VerificationError

CA = create_authority("Fleet CA", days=900)
OTHER = create_authority("Other CA", days=900)
SPKI = (
    ec.generate_private_key(ec.SECP256R1())
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
)
PEM = certificate_pem(issue_device(CA, "edge-01", SPKI, days=90))


def test_process_reads_what_the_library_reads():
    read = read_certificate(PEM, where="test")

    assert read == parse_certificate(PEM, where="test")
    assert (read.leaf_spki, read.device_id) == (SPKI, "edge-01")
    assert read.not_before < read.not_after
    assert read_certificate(read.der, where="test") == read_certificate(read.pem, where="test")


def test_path_is_validated_where_roots_are_named():
    at = parse_certificate(PEM, where="test").not_before + 60
    roots, others = CA.certificate_pem.decode(), OTHER.certificate_pem.decode()

    assert read_certificate(PEM, where="test", roots=roots, at=at).device_id == "edge-01"
    with pytest.raises(VerificationError) as raised:
        read_certificate(PEM, where="test", roots=others, at=at)
    assert raised.value.code == "certificate_untrusted"


@pytest.mark.parametrize("data", [b"", b"no certificate", PEM[:-60], PEM * 200])
def test_what_is_no_chain_is_told_as_such(data):
    with pytest.raises(FormatError, match=r"^device\.pem: "):
        read_certificate(data, where="device.pem")


def test_nothing_of_the_current_folder_is_run(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)

    assert read_certificate(PEM, where="test").device_id == "edge-01"


def test_reader_that_cannot_run_is_tried_again_and_told_once(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="device_agent")
    (tmp_path / "device.pem").write_bytes(PEM)
    file = CertificateFile(tmp_path / "device.pem")
    monkeypatch.setattr(certificate_reader.sys, "executable", "/bin/false")

    file.refresh()
    file.refresh()

    assert file.current is None
    assert [record.getMessage() for record in caplog.records] == ["certificate_unreadable"]
    with pytest.raises(TransportError, match="ended with status 1"):
        read_certificate(PEM, where="test")
    monkeypatch.undo()
    file.refresh()
    assert file.current is not None


def test_file_that_became_bad_leaves_the_last_good_one(tmp_path, caplog):
    path = tmp_path / "device.pem"
    path.write_bytes(PEM)
    file = CertificateFile(path)
    file.refresh()
    good = file.current

    path.write_bytes(b"half a certifi")
    file.refresh()
    file.refresh()

    assert file.current is good
    assert [record.getMessage() for record in caplog.records] == ["certificate_invalid"]


def test_answer_of_a_chain_that_is_none_names_the_error():
    asked = b'{"chain": "aGVsbG8=", "where": "x", "roots": null, "at": 0.0}'

    assert b'"refused": false' in answer(asked)


def test_agent_loads_no_library_for_certificates():
    script = (
        "import sys, device_agent.main, device_agent.adapters.links\n"
        "print([name for name in sys.modules if name.startswith('cryptography')])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("[]\n", "")
