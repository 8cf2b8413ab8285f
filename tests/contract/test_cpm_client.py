"""What every :class:`~device_agent.cpm_client.CpmClient` does: the scripted one, and the real ones.

One talks over the Unix socket to a CPM that is a process of its own, the other runs a stand-in for the
reference ``cpk-tool``, once for each command.
"""

import copy
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from simulators.reference_tool import ReferenceTool
from simulators.releasing_cloud import AUDIENCE, DEVICE_ID, NAME, ReleasingCloud, make_vendor
from simulators.scripted_cpm import ScriptedCpm, device_key

from device_agent.cpm_client import SocketCpmClient, parse_applied, parse_device_key, parse_status
from device_agent.reference_cpm import Pins, ReferenceCpm
from shared.errors import FormatError, TransportError, VerificationError
from shared.public_keys import load_public_key
from shared.types import KeyName, WrapAlgorithm


@pytest.fixture
def cloud():
    return ReleasingCloud()


@pytest.fixture
def scripted_cpm():
    spki = (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    fingerprint = load_public_key(spki, where="test").fingerprint
    key = dataclasses.replace(
        device_key(), spki=spki, fingerprint=fingerprint, algorithms=(WrapAlgorithm.HPKE_P256,)
    )
    return ScriptedCpm(key=key, device_id=DEVICE_ID)


@pytest.fixture
def vendor():
    return make_vendor()


@pytest.fixture
def cpm_process(cloud, vendor, tmp_path):
    (tmp_path / "release.pem").write_bytes(cloud.release_key_pem())
    (tmp_path / "roots.pem").write_bytes(vendor.root_pem)
    command = [
        *(Path(sys.executable).with_name("cpm"), "serve", "--state", tmp_path / "cpm"),
        *("--socket", tmp_path / "cpm.sock", "--audience", "test", "--device-id", DEVICE_ID),
        *("--release-key", tmp_path / "release.pem", "--trust", tmp_path / "roots.pem"),
    ]
    with (tmp_path / "cpm.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout.readline().startswith("ready"), (tmp_path / "cpm.log").read_text()
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)
        process.stdout.close()


@pytest.fixture
def reference_cpm(cloud, tmp_path):
    tool = ReferenceTool(tmp_path / "reference")
    pins = Pins(device_id=DEVICE_ID, audience=AUDIENCE, release_keys=[cloud.release_key.public_key()])
    return ReferenceCpm(tool.path, pins=pins, folder=tmp_path)


@pytest.fixture(params=["scripted", "socket", "reference"])
def client(request, tmp_path):
    if request.param != "socket":
        return request.getfixturevalue(f"{request.param}_cpm")
    request.getfixturevalue("cpm_process")
    return SocketCpmClient(str(tmp_path / "cpm.sock"))


def chosen(client):
    """Return how releases for a client are wrapped: with the first algorithm that it names."""
    return {"algorithm": client.identify().algorithms[0]}


def test_identity_is_a_public_key_and_its_fingerprint(client):
    key = client.identify()

    assert load_public_key(key.spki, where="test").fingerprint == key.fingerprint
    assert key.algorithms
    assert client.status().fingerprint == key.fingerprint
    assert client.status().device_id == DEVICE_ID
    assert client.identify() == key


def test_fresh_cpm_holds_nothing(client):
    status = client.status()

    assert (status.sequence, dict(status.keys), dict(status.packages)) == (0, {}, {})


def test_release_is_applied_once_and_again_without_effect(client, cloud):
    release, wrapped = cloud.release(client.identify().spki, **chosen(client), sequence=7, keys={NAME: 3})

    first = client.apply_release(release, wrapped)
    again = client.apply_release(release, wrapped)

    assert (first.sequence, first.applied, dict(first.versions)) == (7, True, {NAME: 3})
    assert (again.sequence, again.applied, dict(again.versions)) == (7, False, {NAME: 3})
    status = client.status()
    assert status.sequence == 7
    assert status.keys[NAME].version == 3
    assert len(status.keys[NAME].kcv) == 16 if client.judges_releases else status.keys[NAME].kcv is None


def test_what_was_applied_is_known_to_the_next_client_too(client, cloud):
    client.apply_release(*cloud.release(client.identify().spki, **chosen(client), sequence=7, keys={NAME: 3}))

    again = copy.copy(client)

    assert again.status() == client.status()
    assert again.status().sequence == 7


def test_release_for_another_device_key_is_refused_with_its_code(client, cloud):
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    release, wrapped = cloud.release(spki, sequence=7, keys={NAME: 1})

    with pytest.raises(VerificationError) as caught:
        client.apply_release(release, wrapped)

    assert caught.value.code == "key_mismatch"
    assert client.status().sequence == 0


def test_older_release_is_refused_as_replay(client, cloud):
    spki = client.identify().spki
    client.apply_release(*cloud.release(spki, **chosen(client), sequence=7, keys={NAME: 1}))

    with pytest.raises(VerificationError) as caught:
        client.apply_release(*cloud.release(spki, **chosen(client), sequence=6, keys={NAME: 1}))

    assert caught.value.code == "replay"
    assert client.status().sequence == 7


@pytest.mark.parametrize("client", ["socket", "reference"], indirect=True)
def test_wrapped_key_that_does_not_open_is_refused(client):
    with pytest.raises(VerificationError) as caught:
        client.install_application_key(KeyName("test"), b"\0" * 256)

    assert caught.value.code == "unwrap_failed"


@pytest.mark.parametrize("client", ["socket", "reference"], indirect=True)
def test_key_without_a_release_is_refused_once_a_release_was_applied(client, cloud):
    spki = client.identify().spki
    client.apply_release(*cloud.release(spki, **chosen(client), sequence=7, keys={NAME: 1}))
    _, wrapped = cloud.release(spki, **chosen(client), sequence=8, keys={NAME: 1})

    with pytest.raises(VerificationError) as caught:
        client.install_application_key(NAME, wrapped[NAME])

    assert caught.value.code == "rollback"


@pytest.mark.parametrize("client", ["socket", "reference"], indirect=True)
def test_release_of_another_signer_or_with_another_wrapped_key_changes_nothing(client, cloud):
    spki = client.identify().spki
    release, wrapped = cloud.release(spki, **chosen(client), sequence=7, keys={NAME: 1})
    other, _ = ReleasingCloud().release(spki, **chosen(client), sequence=7, keys={NAME: 1})

    for attempt in ((release, {NAME: bytes(256)}), (other, wrapped), (release, {})):
        with pytest.raises(VerificationError) as caught:
            client.apply_release(*attempt)
        assert caught.value.code == "signature_invalid"

    assert (client.status().sequence, dict(client.status().keys)) == (0, {})


def test_package_is_installed_and_one_that_is_none_is_not(client, cloud, vendor, tmp_path):
    client.apply_release(*cloud.release(client.identify().spki, **chosen(client), sequence=7, keys={NAME: 1}))
    package = tmp_path / "digits.cpk"
    package.write_bytes(vendor.package(b"payload", cloud.class_key(NAME, 1)))

    client.install_package(package)
    with pytest.raises(FormatError):
        client.install_package(tmp_path / "missing.cpk")


@pytest.mark.parametrize("client", ["socket", "reference"], indirect=True)
def test_file_that_is_no_package_is_refused(client, tmp_path):
    (tmp_path / "short.cpk").write_bytes(b"no package")

    with pytest.raises((FormatError, VerificationError)):
        client.install_package(tmp_path / "short.cpk")


@pytest.mark.parametrize("kind", ["socket", "reference"])
def test_cpm_that_is_not_there_is_unavailable(kind, tmp_path):
    pins = Pins(device_id=DEVICE_ID, audience=AUDIENCE, release_keys=[])
    absent = {
        "socket": SocketCpmClient(str(tmp_path / "none.sock")),
        "reference": ReferenceCpm(tmp_path / "none", pins=pins, folder=tmp_path),
    }

    with pytest.raises(TransportError) as caught:
        absent[kind].identify()

    assert caught.value.code == "cpm_unavailable"


GOOD_STATUS = {
    "device_id": "edge-01",
    "fingerprint": bytes(32),
    "sequence": 7,
    "keys": {"a": [{"version": 1, "kcv": b"1"}, {"version": 3, "kcv": b"3"}], "b": []},
    "packages": {"app": {"name": "App", "version": "1.0.0", "state": "installed", "size": 9}},
}


def test_status_names_the_newest_version_of_each_key():
    status = parse_status(GOOD_STATUS)

    assert {name: key.version for name, key in status.keys.items()} == {"a": 3}


@pytest.mark.parametrize(
    "change",
    [
        {"device_id": None},
        {"fingerprint": "00"},
        {"sequence": True},
        {"sequence": "7"},
        {"keys": []},
        {"keys": {"bad name!": [{"version": 1, "kcv": b""}]}},
        {"keys": {"a": [{"version": "1", "kcv": b""}]}},
        {"keys": {"a": ["text"]}},
        {"packages": {"app": {"version": 1, "state": "installed"}}},
        {"packages": {7: {"version": "1.0.0", "state": "installed"}}},
    ],
)
def test_status_that_is_none_is_refused(change):
    with pytest.raises(FormatError):
        parse_status({**GOOD_STATUS, **change})


@pytest.mark.parametrize(
    "reply",
    [{}, {"sequence": 1, "applied": 1, "keys": {}}, {"sequence": 1, "applied": True, "keys": {"a": 1}}],
)
def test_answer_to_a_release_that_is_none_is_refused(reply):
    with pytest.raises(FormatError):
        parse_applied(reply)


def test_device_key_with_another_fingerprint_is_refused(scripted_cpm):
    reply = {"spki": scripted_cpm.key.spki, "fingerprint": bytes(32), "algorithms": []}

    with pytest.raises(FormatError, match="fingerprint"):
        parse_device_key(reply)
