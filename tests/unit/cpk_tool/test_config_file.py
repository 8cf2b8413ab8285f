"""``cpk.toml``: options by their long names, all problems told together, flags win."""

from pathlib import Path

import pytest

from cpk_tool import parsers
from cpk_tool.config_file import read_config, settable
from shared.errors import FormatError, SettingsError


@pytest.fixture(scope="module")
def options():
    return parsers.command_parsers()["build"].declared()


@pytest.fixture
def read(tmp_path, options):
    def reading(text):
        (tmp_path / "cpk.toml").write_text(text)
        return read_config(tmp_path / "cpk.toml", options)

    return reading


def test_every_option_of_a_build_can_be_set_but_for_the_dangerous_and_the_secret(options):
    refused = {option.option_strings[-1] for option in options if not settable(option)}

    assert refused == {
        "--help",
        "--config",
        "--json",
        "--deterministic-for-tests",
        "--insecure-http",
        "--insecure-allow-rsa1_5",
        "--insecure-vault-challenge",
        "--client-key-passphrase-fd",
        "--sign-key-passphrase-fd",
        "--pin-fd",
    }


def test_values_come_as_the_command_line_would_have_them(read, tmp_path):
    config = read(
        'application-id = "my_app"\nin-file = "dist/app"\nout-file = "/abs/app.cpk"\nprepare = true\n'
        'segment-size = 65536\nprofile = "recommended"\nkey-store = "keys.json"\n'
    )

    assert config.problems == ()
    assert config.values == {
        "application_id": "my_app",
        "in_file": tmp_path / "dist/app",
        "out_file": Path("/abs/app.cpk"),
        "prepare": True,
        "segment_size": 65536,
        "profile": "recommended",
        "key_store": str(tmp_path / "keys.json"),
    }


@pytest.mark.parametrize(
    "address", ["https://keys.example/api", "http://localhost/", "pkcs11:token=t;object=o"]
)
def test_addresses_are_no_paths(read, address):
    assert read(f'sign-key = "{address}"').values == {"sign_key": address}


def test_all_problems_are_told_together(read, tmp_path):
    config = read(
        'aplication-id = "x"\nname = 7\nsegment-size = "65536"\nprepare = 1\nprofile = "fast"\n'
        "insecure-http = true\n[payload]\nx = 1\n"
    )

    where = tmp_path / "cpk.toml"
    assert config.values == {}
    assert config.problems == (
        f"{where}: 'aplication-id': no option of this command has this name; 'application-id' is one",
        f"{where}: name: expected text, found int",
        f"{where}: segment-size: expected a whole number, found str",
        f"{where}: prepare: expected true or false, found int",
        f"{where}: profile: expected one of reference, recommended, post-quantum, found 'fast'",
        f"{where}: insecure-http: expected on the command line only",
        f"{where}: 'payload': no option of this command has this name",
    )


@pytest.mark.parametrize("text", ["a = ", "a = 1\na = 2", "\x00"])
def test_what_is_no_toml_is_one_problem(read, text):
    with pytest.raises(SettingsError, match=r"cpk\.toml: expected TOML: "):
        read(text)


def test_what_is_no_utf_8_is_one_problem(tmp_path, options):
    (tmp_path / "cpk.toml").write_bytes(b'a = "\xff"')

    with pytest.raises(SettingsError, match=r"cpk\.toml: expected TOML: "):
        read_config(tmp_path / "cpk.toml", options)


def test_a_large_file_is_not_read(read):
    with pytest.raises(FormatError, match="expected at most"):
        read("#" * (1 << 20) + "\n")


def test_flags_win_over_the_file(tmp_path):
    (tmp_path / "cpk.toml").write_text('name = "from file"\nvendor = "from file"\n')

    options = parsers.parse(["build", "-c", str(tmp_path / "cpk.toml"), "--name", "from flag"])

    assert (options.name, options.vendor, options.package_version) == ("from flag", "from file", "1.0.0")
