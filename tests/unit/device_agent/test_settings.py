import logging

import pytest

from device_agent.settings import load_settings
from device_agent.sign_in import EDGE_VARIABLES, EdgeModule
from shared.errors import SettingsError

KEY = "c2VjcmV0LXNoYXJlZC1hY2Nlc3Mta2V5"
CONNECTION = f"HostName=hub.example.net;DeviceId=edge-01;SharedAccessKey={KEY}"


def test_environment_goes_before_the_file(tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text(f'connection_string = "{CONNECTION}"\nstate_dir = "/one"\ncpm_socket = "/run/a.sock"\n')
    config.chmod(0o600)

    settings = load_settings(config, {"DEVICE_AGENT_STATE_DIR": "/two", "CPM_SOCKET": "/run/b.sock"})

    assert settings.device_id == "edge-01"
    assert settings.sign_in.text.reveal() == CONNECTION.encode()
    assert str(settings.state_dir) == "/two"
    assert settings.cpm_socket == "/run/a.sock"
    assert settings.log_level == "INFO"


def test_connection_string_is_taken_out_of_the_environment_and_never_shown():
    environment = {"DEVICE_AGENT_CONNECTION_STRING": CONNECTION, "PATH": "/bin"}

    settings = load_settings(None, environment)

    assert environment == {"PATH": "/bin"}
    assert KEY not in repr(settings)


def test_module_connection_string_names_device_and_module():
    text = CONNECTION.replace("DeviceId=edge-01", "DeviceId=edge-01;ModuleId=agent")

    assert load_settings(None, {"DEVICE_AGENT_CONNECTION_STRING": text}).device_id == "edge-01/agent"


def test_edge_module_needs_no_connection_string():
    environment = {name: f"value-{name}" for name in EDGE_VARIABLES}
    environment |= {"IOTEDGE_DEVICEID": "gateway", "IOTEDGE_MODULEID": "agent"}

    settings = load_settings(None, environment)

    assert settings.device_id == "gateway/agent"
    assert settings.sign_in == EdgeModule(device_id="gateway/agent", gateway="value-IOTEDGE_GATEWAYHOSTNAME")


def test_connection_string_goes_before_the_edge_environment():
    environment = {"IOTEDGE_WORKLOADURI": "unix:///w.sock", "DEVICE_AGENT_CONNECTION_STRING": CONNECTION}

    assert load_settings(None, environment).device_id == "edge-01"


def test_all_problems_are_told_together(tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text("conection_string = 'x'\nstate_dir = true\n")
    environment = {
        "DEVICE_AGENT_LOG_LEVEL": "loud",
        "DEVICE_AGENT_CA_FILE": str(tmp_path / "missing.pem"),
        "DEVICE_AGENT_TYPO": "1",
    }

    with pytest.raises(SettingsError) as caught:
        load_settings(config, environment)

    problems = "\n".join(caught.value.problems)
    for expected in ("conection_string", "state_dir", "log_level", "missing.pem", "TYPO", "found none"):
        assert expected in problems
    assert len(caught.value.problems) == 6


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("", "HostName, DeviceId, SharedAccessKey"),
        (KEY, "HostName, DeviceId, SharedAccessKey"),
        (f"HostName=hub;DeviceId=edge;SharedAccesKey={KEY}", "SharedAccessKey"),
        (f"HostName=hub;SharedAccessKeyName=service;SharedAccessKey={KEY}", "DeviceId"),
    ],
)
def test_wrong_connection_string_names_what_is_missing_and_shows_nothing(text, missing):
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {"DEVICE_AGENT_CONNECTION_STRING": text})

    assert missing in str(caught.value)
    assert KEY not in str(caught.value)


def test_broken_toml_shows_none_of_its_lines(tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text(f'connection_string = "{CONNECTION}\n')

    with pytest.raises(SettingsError) as caught:
        load_settings(config, {})

    assert "not TOML" in str(caught.value)
    assert KEY not in str(caught.value)


def test_both_forms_of_the_connection_string_are_one_too_many(tmp_path):
    file = tmp_path / "connection"
    file.write_text(CONNECTION)
    environment = {
        "DEVICE_AGENT_CONNECTION_STRING": CONNECTION,
        "DEVICE_AGENT_CONNECTION_STRING_FILE": str(file),
    }

    with pytest.raises(SettingsError, match="found both"):
        load_settings(None, environment)


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 1), (0o604, 1)])
def test_secret_that_others_can_read_is_warned_of(tmp_path, caplog, mode, warnings):
    file = tmp_path / "connection"
    file.write_text(CONNECTION + "\n")
    file.chmod(mode)

    with caplog.at_level(logging.WARNING, logger="device_agent"):
        settings = load_settings(None, {"DEVICE_AGENT_CONNECTION_STRING_FILE": str(file)})

    assert settings.sign_in.text.reveal() == CONNECTION.encode()
    assert [record.getMessage() for record in caplog.records] == ["secret_readable_by_others"] * warnings


def test_ca_file_must_hold_certificates(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("no certificate\n")
    environment = {"DEVICE_AGENT_CONNECTION_STRING": CONNECTION, "DEVICE_AGENT_CA_FILE": str(file)}

    with pytest.raises(SettingsError, match="ca_file"):
        load_settings(None, environment)
