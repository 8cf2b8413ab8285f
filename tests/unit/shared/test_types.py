"""Value types: what they accept, what they refuse, and that secrets stay secret."""

from __future__ import annotations

import copy
import json
import logging
import pickle

import pytest

from shared.errors import FormatError
from shared.types import (
    Secret,
    WrapAlgorithm,
    parse_audience,
    parse_device_id,
    parse_key_name,
)


@pytest.mark.parametrize("name", ["a", "7", "my_confidential_app", "test", "A-b_C", "x" * 64])
def test_key_names_of_the_grammar_are_accepted(name):
    assert parse_key_name(name, where="here") == name


@pytest.mark.parametrize(
    "name", ["", "_a", "-a", "a.b", "a b", "a/b", "../a", "x" * 65, "é", "a\n", "a\0", None, 7, b"a", ["a"]]
)
def test_other_key_names_are_refused_with_their_own_code(name):
    with pytest.raises(FormatError, match=r"^here: expected a key name") as caught:
        parse_key_name(name, where="here")
    assert caught.value.code == "name_invalid"


@pytest.mark.parametrize("device", ["edge-01", "d/m", "a:b.c+d%e_f#*?!(),=@;$'", "x" * 128, f"{'d' * 128}/m"])
def test_device_and_module_ids_are_accepted(device):
    assert parse_device_id(device, where="here") == device


@pytest.mark.parametrize(
    "device", ["", "/", "d/", "/m", "d/m/x", "a b", "x" * 129, "é", "d\n", None, 1, b"d"]
)
def test_other_device_ids_are_refused(device):
    with pytest.raises(FormatError, match=r"^here: expected an IoT Hub device id"):
        parse_device_id(device, where="here")


@pytest.mark.parametrize("audience", ["", "a b", "x" * 65, "é", "a\n", None, 1])
def test_audiences_are_printable_ascii(audience):
    assert parse_audience("fleet-a", where="here") == "fleet-a"
    with pytest.raises(FormatError, match=r"^here: expected 1 to 64"):
        parse_audience(audience, where="here")


def test_a_refused_name_is_quoted_short():
    with pytest.raises(FormatError) as caught:
        parse_key_name("\n" * 100_000, where="here")
    assert len(str(caught.value)) < 300


def test_every_algorithm_has_its_own_cose_identifier_and_comes_back_from_it():
    identifiers = {algorithm.cose for algorithm in WrapAlgorithm}
    assert len(identifiers) == len(WrapAlgorithm)
    assert {WrapAlgorithm.from_cose(number) for number in identifiers} == set(WrapAlgorithm)
    assert WrapAlgorithm.RSA_OAEP_256.cose == -41


@pytest.mark.parametrize("number", [0, 41, -65540])
def test_an_unknown_cose_identifier_is_an_unsupported_algorithm(number):
    with pytest.raises(FormatError) as caught:
        WrapAlgorithm.from_cose(number)
    assert caught.value.code == "unsupported_algorithm"


def test_a_secret_shows_nowhere(caplog):
    secret = Secret(b"sixteen byte key")
    logging.getLogger("test").warning("%s %r", secret, [secret])
    shown = [
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret:>40}",
        f"{secret!r}",
        repr({"k": secret}),
        caplog.text,
    ]
    assert all("sixteen" not in text for text in shown)
    assert str(secret) == "***"
    assert secret.reveal() == b"sixteen byte key"
    assert len(secret) == 16


@pytest.mark.parametrize(
    "leak", [pickle.dumps, copy.deepcopy, json.dumps, hash, lambda secret: secret == Secret(b"x")]
)
def test_a_secret_cannot_be_copied_out_or_compared(leak):
    with pytest.raises(TypeError):
        leak(Secret(b"sixteen byte key"))
