"""Key stores and private key files: what is read, and what is told when it cannot be."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from cpk_tool.key_files import MAX_FILE, FileKeyStore, load_private_key, read_small
from shared.errors import FormatError, KeyUnavailable


@pytest.fixture
def store(tmp_path):
    def stored(text):
        path = tmp_path / "keys.json"
        path.write_text(text)
        return FileKeyStore.load(path)

    return stored


def test_keys_are_read_as_both_kinds_of_peers_write_base64(store):
    keys = store('{"padded": "AAECAw==", "loose": "AAEC\\nAw"}')

    assert keys.get("padded").reveal() == bytes([0, 1, 2, 3])
    assert keys.get("loose").reveal() == bytes([0, 1, 2, 3])


@pytest.mark.parametrize("text", ["[]", '"x"', '{"a": "AA==", "a": "AA=="}', "{"])
def test_what_is_no_strict_json_object_is_malformed(store, text):
    with pytest.raises(FormatError, match=r"keys\.json"):
        store(text)


def test_a_key_that_is_not_there_is_unavailable(store):
    with pytest.raises(KeyUnavailable, match=r"keys\.json: no class key called 'app'"):
        store("{}").get("app")


@pytest.mark.parametrize("value", [7, None, "AA-_", "!"])
def test_an_entry_is_judged_when_it_is_asked_for(store, value):
    keys = store(json.dumps({"bad": value, "good": "AA=="}))

    assert keys.get("good").reveal() == b"\0"
    with pytest.raises(FormatError, match=r"keys\.json: key 'bad'"):
        keys.get("bad")


def test_an_encrypted_private_key_is_told_as_such(tmp_path):
    key = ed25519.Ed25519PrivateKey.generate()
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    (tmp_path / "k").write_bytes(data)

    with pytest.raises(FormatError, match="the private key is encrypted"):
        load_private_key(tmp_path / "k")


def test_what_is_no_private_key_is_malformed(tmp_path):
    (tmp_path / "k").write_text("no key")

    with pytest.raises(FormatError, match="k: expected a private key in PEM"):
        load_private_key(tmp_path / "k")


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(MAX_FILE + 1)

    with pytest.raises(FormatError, match="large: expected at most 1048576 bytes, found more"):
        read_small(path)
