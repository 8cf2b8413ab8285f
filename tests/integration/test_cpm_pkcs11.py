"""Custody in a PKCS#11 token: tpm2-pkcs11 over a software TPM, and SoftHSM, which cannot do what it takes."""

import dataclasses
import os
import subprocess
import sys

import pytest
from simulators.cpm_process import Cpm
from simulators.soft_token import PIN as SOFT_PIN
from simulators.soft_token import SoftToken
from simulators.tpm_token import PIN, TpmToken

# A library reads its environment once a process; so what is asked of a token here is asked in a process.
_MAKE_EXTRACTABLE = """
import sys, pkcs11
from pkcs11 import Attribute, KeyType
module, token, pin, label = sys.argv[1:]
with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
    private = {Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False}
    session.generate_keypair(KeyType.RSA, 2048, label=label, store=True, private_template=private)
"""


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    token = TpmToken(tmp_path_factory.mktemp("token"))
    yield token
    token.close()


@pytest.fixture
def cpm(token, tmp_path):
    process = Cpm(
        folder=tmp_path,
        custody=token.uri(os.urandom(4).hex()),
        environment=token.environment,
        before_start=token.make_room,
    )
    yield process
    process.kill()


@pytest.fixture
def soft_token(tmp_path):
    return SoftToken(tmp_path)


def test_release_package_workload_and_restart_on_a_token(cpm):
    cpm.start()
    assert cpm.apply(1)["applied"] is True
    assert cpm.install_and_run().stdout == "ran\n"
    assert cpm.call("device_public_key")["algorithms"] == ["RSA-OAEP-256"]
    before = cpm.call("status")
    assert cpm.stop() == 0
    cpm.start()

    assert cpm.call("status") == before
    assert cpm.stop() == 0
    assert PIN not in cpm.log()


def test_key_that_is_in_the_token_already_is_used(cpm, tmp_path_factory):
    cpm.start()
    fingerprint = cpm.call("ping")["fingerprint"]
    assert cpm.stop() == 0
    again = dataclasses.replace(cpm, folder=tmp_path_factory.mktemp("again"), process=None)
    again.start()
    try:
        assert again.call("ping")["fingerprint"] == fingerprint
    finally:
        again.kill()


def test_folder_of_another_key_of_the_token_is_refused(cpm, token):
    cpm.start()
    assert cpm.stop() == 0
    cpm.custody = token.uri("absent")

    refused = cpm.refused()
    assert (refused.returncode, "expected one private key 'absent'" in refused.stderr) == (1, True)


def test_pin_comes_as_a_systemd_credential_where_the_uri_names_no_file(cpm, tmp_path):
    without = cpm.custody.partition("&pin-source")[0]
    cpm.custody = without
    missing = cpm.refused()
    assert (missing.returncode, "expected the token's PIN, found none" in missing.stderr) == (1, True)
    assert "LoadCredential=cpm.pin:" in missing.stderr

    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "cpm.pin").write_text(PIN)
    cpm.environment = {**cpm.environment, "CREDENTIALS_DIRECTORY": str(credentials)}
    cpm.start()
    assert cpm.call("ping")["contract"] == 1


def test_wrong_pin_is_refused_and_not_repeated(cpm, tmp_path):
    (tmp_path / "wrong").write_text("13572468\n")
    cpm.custody = cpm.custody.partition("&pin-source")[0] + f"&pin-source=file:{tmp_path}/wrong"

    refused = cpm.refused()

    assert (refused.returncode, "the token refused the PIN: PinIncorrect" in refused.stderr) == (3, True)
    assert "13572468" not in refused.stderr


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "expected a PIN of 1 to 256 bytes"), (b"\xff\xfe", "a PIN in UTF-8")]
)
def test_pin_file_without_a_pin_is_told(cpm, tmp_path, content, message):
    (tmp_path / "bad").write_bytes(content)
    cpm.custody = cpm.custody.partition("&pin-source")[0] + f"&pin-source=file:{tmp_path}/bad"

    refused = cpm.refused()
    assert (refused.returncode, message in refused.stderr) == (1, True)


def test_token_without_oaep_over_sha256_is_refused_at_the_start(soft_token, tmp_path):
    (tmp_path / "pin").write_text(SOFT_PIN)
    process = Cpm(
        folder=tmp_path,
        custody=f"{soft_token.uri('device')}?module-path={soft_token.module}&pin-source=file:{tmp_path}/pin",
        environment=soft_token.environment,
    )

    refused = process.refused()

    assert refused.returncode == 3
    assert "the token does not do RSA-OAEP with SHA-256" in refused.stderr
    assert not (process.state / "device-key.pkcs11").exists()


def test_key_that_could_be_taken_out_is_refused(soft_token, tmp_path):
    (tmp_path / "pin").write_text(SOFT_PIN)
    subprocess.run(
        [sys.executable, "-c", _MAKE_EXTRACTABLE, soft_token.module, soft_token.LABEL, SOFT_PIN, "weak"],
        env={**os.environ, **soft_token.environment},
        check=True,
        timeout=120,
    )
    process = Cpm(
        folder=tmp_path,
        custody=f"{soft_token.uri('weak')}?module-path={soft_token.module}&pin-source=file:{tmp_path}/pin",
        environment=soft_token.environment,
    )

    refused = process.refused()
    assert (refused.returncode, "SENSITIVE: expected True" in refused.stderr) == (3, True)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pkcs11:token=device;object=k", "expected the path of the token's PKCS#11 library"),
        ("pkcs11:token=device;object=k?module-path=/nonexistent.so", "expected a PKCS#11 library"),
    ],
)
def test_library_that_is_not_there_is_told(tmp_path, uri, message):
    refused = Cpm(folder=tmp_path, custody=uri).refused()
    assert (refused.returncode, message in refused.stderr) == (1, True)


def test_token_that_is_not_there_is_told(cpm, token):
    cpm.custody = token.uri("k").replace(f"token={token.LABEL}", "token=other")

    refused = cpm.refused()
    assert (refused.returncode, "expected one token that fits" in refused.stderr) == (1, True)
