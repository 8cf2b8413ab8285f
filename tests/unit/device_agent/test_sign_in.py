"""Which settings describe which way to sign in, and what is told when they describe none or several."""

import base64
import logging
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from simulators.releasing_cloud import ReleasingCloud

from device_agent.settings import load_settings
from device_agent.sign_in import PROVISIONING_HOST, ClientCertificate, Direct, Provisioned, SharedKey
from shared.errors import SettingsError

KEY = base64.b64encode(b"secret-shared-access-key").decode()
CLIENT = {"client_certificate_file": "/c.pem", "client_key_file": "/c.key"}
DIRECT = {"hub_host": "hub.example.net", "device_id": "edge-01", **CLIENT}
PROVISIONED = {
    "provisioning_id_scope": "0ne00AB",
    "provisioning_registration_id": "edge-01",
    **CLIENT,
}


def load(values):
    return load_settings(None, {f"DEVICE_AGENT_{name.upper()}": value for name, value in values.items()})


def test_client_certificate_needs_the_hub_the_device_and_two_files():
    settings = load(DIRECT)

    assert settings.sign_in == Direct(
        device_id="edge-01",
        host="hub.example.net",
        credential=ClientCertificate(certificate_file=Path("/c.pem"), key_file=Path("/c.key")),
    )
    assert settings.device_id == "edge-01"


def test_provisioning_takes_the_registration_id_for_the_device_unless_told_otherwise():
    assert load(PROVISIONED).sign_in.device_id == "edge-01"
    assert load(PROVISIONED).sign_in.service_host == PROVISIONING_HOST
    assert load({**PROVISIONED, "device_id": "Edge_1"}).sign_in.device_id == "Edge_1"


def test_provisioning_key_comes_from_a_file_and_is_never_shown(tmp_path, caplog):
    file = tmp_path / "dps.key"
    file.write_text(KEY + "\n")
    file.chmod(0o640)
    values = {name: value for name, value in PROVISIONED.items() if name not in CLIENT}

    with caplog.at_level(logging.WARNING, logger="device_agent"):
        settings = load({**values, "provisioning_key_file": str(file)})

    assert isinstance(settings.sign_in, Provisioned)
    assert isinstance(settings.sign_in.credential, SharedKey)
    assert settings.sign_in.credential.key.reveal() == KEY.encode()
    assert KEY not in repr(settings)
    assert [record.getMessage() for record in caplog.records] == ["secret_readable_by_others"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({**DIRECT, "connection_string": "HostName=h;DeviceId=d;SharedAccessKey=k"}, "found 2"),
        ({**DIRECT, **PROVISIONED}, "found 2"),
        (CLIENT, "expected hub_host or provisioning_id_scope"),
        ({"hub_host": "hub"}, "device_id, client_certificate_file, client_key_file: missing"),
        ({**DIRECT, "hub_host": "hub.example.net:8883"}, "without a port"),
        ({**DIRECT, "hub_host": "hub/../x"}, "without a port"),
        ({**DIRECT, "device_id": "a b"}, "device_id"),
        ({**PROVISIONED, "provisioning_key_file": "/k"}, "expected one of the two"),
        ({**PROVISIONED, "provisioning_id_scope": "a/b"}, "provisioning_id_scope"),
        ({**PROVISIONED, "provisioning_registration_id": "UPPER/x"}, "provisioning_registration_id"),
        ({"provisioning_id_scope": "0ne00AB"}, "provisioning_registration_id: missing"),
        (
            {"connection_string": "HostName=h;DeviceId=d;SharedAccessKey=k", "device_id": "d"},
            "device_id: not used with a connection string",
        ),
    ],
)
def test_settings_that_describe_no_one_way_are_told(values, words):
    with pytest.raises(SettingsError) as caught:
        load(values)

    assert words in str(caught.value)


@pytest.fixture
def release_keys(tmp_path):
    file = tmp_path / "release.pem"
    file.write_bytes(ReleasingCloud().release_key_pem() + ReleasingCloud().release_key_pem())
    return str(file)


def test_reference_tool_comes_with_pins(release_keys):
    settings = load(
        {**DIRECT, "cpm_tool": "/usr/bin/cpk-tool", "audience": "fleet-a", "release_keys_file": release_keys}
    )

    assert settings.reference_tool.audience == "fleet-a"
    assert len(settings.reference_tool.release_keys) == 2


def test_renewal_command_is_a_list_in_the_file_and_json_in_the_environment(tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text(
        'renewal_command = ["/usr/bin/renew", "--now"]\nrenewal_fraction = 0.5\nstate_dir = "/s"\n'
    )
    environment = {f"DEVICE_AGENT_{name.upper()}": value for name, value in DIRECT.items()}

    settings = load_settings(config, dict(environment))

    assert settings.renewal.command == ("/usr/bin/renew", "--now")
    assert settings.renewal.fraction == 0.5
    assert settings.certificate_file == Path("/s/device.pem")
    environment["DEVICE_AGENT_RENEWAL_COMMAND"] = '["/other"]'
    assert load_settings(config, environment).renewal.command == ("/other",)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cpm_tool": "/usr/bin/cpk-tool"}, "audience, release_keys_file: missing"),
        ({"audience": "fleet-a"}, "only used with cpm_tool"),
        ({"cpm_tool": "cpk-tool", "audience": "a", "release_keys_file": "/r"}, "absolute path"),
        ({"cpm_tool": "/t", "audience": "a", "release_keys_file": "/no/such"}, "/no/such"),
        ({"cpm_tool": "/t", "audience": "a b", "release_keys_file": "/r"}, "audience"),
        ({"renewal_command": "/usr/bin/renew --now"}, "renewal_command"),
        ({"renewal_command": '["renew"]'}, "absolute path"),
        ({"renewal_command": "[]"}, "absolute path"),
        ({"renewal_command": '["/r"]', "renewal_fraction": "1"}, "renewal_fraction"),
        ({"renewal_command": '["/r"]', "renewal_fraction": "nan"}, "renewal_fraction"),
        ({"metrics_port": "70000"}, "metrics_port"),
        ({"metrics_port": "http"}, "metrics_port"),
        ({"metrics_port": "0", "metrics_address": "localhost"}, "metrics_address"),
        ({"metrics_address": "127.0.0.1"}, "only used with metrics_port"),
        ({"device_roots_file": "/no/such"}, "/no/such"),
    ],
)
def test_wrong_options_are_told(values, words):
    with pytest.raises(SettingsError) as caught:
        load({**DIRECT, **values})

    assert words in str(caught.value)


def test_metrics_are_on_loopback_unless_told_otherwise():
    assert load({**DIRECT, "metrics_port": "9100"}).metrics.address == "127.0.0.1"
    assert load(DIRECT).metrics is None


def test_release_keys_are_p256_and_nothing_else(tmp_path):
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    pem = rsa_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    file = tmp_path / "release.pem"
    for content, words in ((b"no key", "expected PEM public keys"), (pem, "P-256"), (b"", "found 0")):
        file.write_bytes(content)

        with pytest.raises(SettingsError, match=words):
            load({**DIRECT, "cpm_tool": "/t", "audience": "a", "release_keys_file": str(file)})
