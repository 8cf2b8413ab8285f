"""Where the key service's address and credentials come from, and what may never go together."""

import json
from types import SimpleNamespace

import pytest

from edb.settings import connection_from
from shared.command_line.output import UsageError
from shared.errors import EdbError, FormatError, SettingsError, VerificationError


def options(**given):
    names = ("url", "cloud", "ca_file", "function_key_file", "entra", "settings")
    return SimpleNamespace(**{name: given.get(name) for name in names})


@pytest.fixture
def home(tmp_path):
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture
def config(tmp_path):
    def write(text):
        (tmp_path / "config").mkdir(exist_ok=True)
        (tmp_path / "config" / "edb.toml").write_text(text)

    return write


def write_private(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def cloud_json(tmp_path, **changes):
    document = {
        "functions": {"url": "https://127.0.0.1:4", "keys": {"admin": "cloud-key"}},
        "hub": {"ca_file": "/cloud/ca.pem"},
        **changes,
    }
    return write_private(tmp_path / "cloud.json", json.dumps(document))


def test_the_command_line_wins_over_the_environment_and_both_over_the_file(home, config, tmp_path):
    config('url = "https://file"\n')
    key = write_private(tmp_path / "key", "from-file\n")
    environment = home | {"EDB_URL": "https://environment", "EDB_FUNCTION_KEY": "from-environment"}

    assert connection_from(options(), home).url == "https://file"
    assert connection_from(options(), environment).url == "https://environment"
    connection = connection_from(options(url="https://given/", function_key_file=key), environment)
    assert connection.url == "https://given"
    assert connection.function_key.reveal() == b"from-file"
    assert "from" not in repr(connection)


def test_paths_of_the_settings_file_count_from_its_folder(home, config, tmp_path):
    config(
        'url = "https://keys.example/api"\nfunction-key-file = "k"\nca-file = "ca.pem"\nentra = "api://x"\n'
    )
    write_private(tmp_path / "config" / "k", "secret")

    connection = connection_from(options(), home)

    assert connection.url == "https://keys.example"
    assert connection.ca_file == tmp_path / "config" / "ca.pem"
    assert connection.function_key.reveal() == b"secret"
    assert connection.scope == "api://x"


def test_a_cloud_tells_address_key_and_roots(home, tmp_path):
    connection = connection_from(options(cloud=cloud_json(tmp_path)), home)

    assert connection.url == "https://127.0.0.1:4"
    assert connection.function_key.reveal() == b"cloud-key"
    assert str(connection.ca_file) == "/cloud/ca.pem"


def test_a_key_that_belongs_to_one_address_is_never_sent_to_another(home, config, tmp_path):
    config('url = "https://file"\nfunction-key-file = "k"\n')
    write_private(tmp_path / "config" / "k", "secret")
    environment = home | {"EDB_CLOUD": str(cloud_json(tmp_path))}

    assert connection_from(options(url="https://other"), home).function_key is None
    assert connection_from(options(url="https://other"), environment).function_key is None
    assert connection_from(options(), environment).function_key.reveal() == b"cloud-key"


def test_all_problems_of_the_settings_file_are_told(home, config):
    config('url = 1\nfunction-key = "secret-in-the-file"\n')

    with pytest.raises(SettingsError) as error:
        connection_from(options(), home)

    assert len(error.value.problems) == 2
    assert "secret-in-the-file" not in str(error.value)
    assert "'function-key': unknown" in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://keys.example",
        "keys.example",
        "https://",
        "https://u:p@keys",
        "https://h:x",
        "https://h/?code=a",
    ],
)
def test_only_plain_https_addresses_are_taken(home, url):
    with pytest.raises(UsageError, match="url: expected"):
        connection_from(options(url=url), home)


def test_no_address_is_a_usage_error_with_a_hint(home):
    with pytest.raises(UsageError) as error:
        connection_from(options(), home)

    assert "EDB_URL" in error.value.hint


def test_a_key_file_that_others_can_read_is_refused(home, tmp_path):
    key = write_private(tmp_path / "key", "secret")
    key.chmod(0o640)

    with pytest.raises(VerificationError, match="found mode 0640") as error:
        connection_from(options(url="https://h", function_key_file=key), home)

    assert error.value.code == "file_mode"


def test_a_function_key_that_cannot_stand_in_a_header_is_refused_unseen(home):
    with pytest.raises(FormatError) as error:
        connection_from(options(url="https://h"), home | {"EDB_FUNCTION_KEY": "se\ncret"})

    assert "cret" not in str(error.value).replace("EDB_FUNCTION_KEY", "")


def test_a_cloud_that_does_not_run_is_told(home, tmp_path):
    with pytest.raises(EdbError, match="the local cloud does not run"):
        connection_from(options(cloud=tmp_path / "cloud.json"), home)


def test_a_cloud_json_of_another_shape_names_the_place(home, tmp_path):
    with pytest.raises(FormatError, match="at /functions/url: expected text"):
        connection_from(options(cloud=cloud_json(tmp_path, functions=[])), home)
