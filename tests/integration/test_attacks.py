"""Attacks by name, through a malicious twin and a malicious host, on the real CPM and the agent's own code.

Each ends the same way: nothing was taken, and the honest release or package that follows is.
docs/guides/device-cpm.md lists every attack with its test, those of other files included.
"""

import os
import re
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from simulators.cpm_process import SCRIPT, SECONDS, Cpm
from simulators.device_link import SimulatedLink
from simulators.releasing_cloud import AUDIENCE, CP_ID, DEVICE_ID, NAME

from device_agent.certificate import CertificateFile
from device_agent.cpm_client import SocketCpmClient
from device_agent.inbox import Inbox
from device_agent.state import StateFolder
from device_agent.sync import Agent
from shared.errors import EdbError, FormatError, StorageError
from shared.keys.wrapping import WrapContext, wrap_key
from shared.public_keys import load_public_key
from shared.twin.documents import desired_patch, parse_public_key, parse_status
from shared.types import Audience, DeviceId, WrapAlgorithm

ROOT = Path(__file__).resolve().parents[2]
OTHER = "other_app"


@pytest.fixture
def cpm(tmp_path):
    device = Cpm(folder=tmp_path)
    device.start()
    yield device
    if device.process.poll() is None:
        device.kill()


def _spki(key):
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _held(cpm):
    status = cpm.call("status")
    return {name: [held["version"] for held in versions] for name, versions in status["keys"].items()}


# ── a malicious twin ──────────────────────────────────────────────────────────────────────────────────────


class Twin:
    """Whoever may write the twin: takes what the cloud made for the device, and writes what they like."""

    def __init__(self, cpm):
        self.cpm = cpm
        self.link = SimulatedLink()
        self._inbox, self._now = Inbox(), 1000.0
        self._folder = StateFolder(cpm.folder / "agent")
        self._agent = Agent(
            link=self.link,
            cpm=SocketCpmClient(str(cpm.socket)),
            certificate=CertificateFile(None),
            state=self._folder,
            notify=self._inbox.put,
            clock=lambda: self._now,
        )
        self.settle()

    def settle(self):
        self._agent.advance()
        while (event := self._inbox.get(0)) is not None:
            self._agent.handle(event)
            self._agent.advance()

    def pass_time(self):
        """Turn the agent's clock beyond its longest wait for a hub."""
        self._now += 120
        self.settle()

    def close(self):
        self._folder.close()

    @property
    def spki(self):
        return parse_public_key(self.link.reported).spki

    def made(self, sequence=2, keys=None, spki=None, **more):
        """Return what the honest cloud writes for a device; the defaults are this one's next release."""
        release, wrapped = self.cpm.cloud.release(
            spki or self.spki, sequence=sequence, keys=keys or {NAME: 1, OTHER: 1}, **more
        )
        return desired_patch(wrapped=wrapped, removed=self._names(wrapped), release=release)

    def _names(self, wrapped):
        return set(self.link.desired.get("confidential_package_keys", {})) - set(wrapped)

    def write(self, patch):
        self.link.desire(patch)
        self.settle()

    def told(self):
        keys = parse_status(self.link.reported).keys
        return {report.error for report in keys.values()} - {None}


@pytest.fixture
def twin(cpm):
    twin = Twin(cpm)
    twin.write(twin.made(1, {NAME: 1}, floors={NAME: 1}))
    assert _held(cpm) == {NAME: [1]}
    yield twin
    twin.close()


def _planted_key(twin):
    """A key of the attacker's, wrapped for the device, beside a good release that does not name it."""
    patch = twin.made()
    patch["confidential_package_keys"]["planted"] = patch["confidential_package_keys"][NAME]
    return patch


def _planted_key_under_a_good_name(twin):
    patch, other = twin.made(), twin.made()
    patch["confidential_package_keys"][NAME] = other["confidential_package_keys"][NAME]
    return patch


def _stripped_release(twin):
    """Keys alone, as contract version 1 brought them."""
    return {**twin.made(), "confidential_package_release": None}


def _replayed_release(twin):
    twin.write(twin.made(5, {NAME: 1}))
    return twin.made(4)


def _older_version(twin):
    twin.write(twin.made(5, {NAME: 3}, floors={NAME: 3}))
    return twin.made(6, {NAME: 2, OTHER: 1})


def _other_devices_release(twin):
    return twin.made(device_id=DeviceId("edge-02"))


def _other_deployments_release(twin):
    return twin.made(audience=Audience("another"))


def _attackers_release(twin):
    return twin.made(signed_by=ec.generate_private_key(ec.SECP256R1()))


def _key_substitution(twin):
    """The report was exchanged for the attacker's device key, so the cloud wrapped for that one."""
    return twin.made(spki=_spki(ec.generate_private_key(ec.SECP256R1())))


def _swapped_names(twin):
    patch = twin.made()
    keys = patch["confidential_package_keys"]
    keys[NAME], keys[OTHER] = keys[OTHER], keys[NAME]
    return patch


def _long_release(twin):
    """A release that takes several parts of the twin."""
    patch = twin.made(floors={f"{number:03}" + "x" * 60: 1 for number in range(60)})
    cose = patch["confidential_package_release"]["cose"]
    parts = sorted((name for name, part in cose.items() if part is not None), key=int)
    assert len(parts) > 1
    return patch, cose, parts


def _cut_part(twin):
    patch, cose, parts = _long_release(twin)
    cose[parts[-1]] = cose[parts[-1]][: len(cose[parts[-1]]) // 8 * 4]
    return patch


def _missing_part(twin):
    patch, cose, parts = _long_release(twin)
    cose[parts[-1]] = None
    return patch


def _missing_first_part(twin):
    patch, cose, parts = _long_release(twin)
    cose[parts[0]] = None
    return patch


def _swapped_parts(twin):
    patch, cose, parts = _long_release(twin)
    first, second = parts[:2]
    cose[first], cose[second] = cose[second], cose[first]
    return patch


def _cut_release(twin):
    patch = twin.made()
    release = patch["confidential_package_release"]
    release["cose"] = release["cose"][: len(release["cose"]) // 8 * 4]
    return patch


def _giant_twin(twin):
    """Far beyond what a hub lets stand in a twin, and beyond what fits into a frame."""
    patch = twin.made()
    keys = patch["confidential_package_keys"]
    keys.update({f"name{number}": "A" * 1364 for number in range(2000)})
    return patch


def _deep_twin(twin):
    patch = twin.made()
    nested = {}
    for _ in range(200):
        nested = {"a": nested}
    patch["confidential_package_release"] = nested
    return patch


TWIN_ATTACKS = {
    _planted_key: {"signature_invalid"},
    _planted_key_under_a_good_name: {"signature_invalid"},
    _stripped_release: {"rollback"},
    _replayed_release: {"replay"},
    _older_version: {"rollback"},
    _other_devices_release: {"wrong_device"},
    _other_deployments_release: {"wrong_device"},
    _attackers_release: {"signature_invalid"},
    _key_substitution: {"key_mismatch"},
    _swapped_names: {"signature_invalid"},
    _cut_release: {"internal"},
    _cut_part: {"internal"},
    _missing_part: {"internal"},
    _missing_first_part: set(),
    _swapped_parts: set(),
    _giant_twin: set(),
    _deep_twin: set(),
}
"""What the device reports; nothing where the twin is no document of the protocol, which the agent logs."""


@pytest.mark.parametrize("attack", TWIN_ATTACKS, ids=lambda attack: attack.__name__.strip("_"))
def test_malicious_twin_plants_nothing_and_the_next_release_is_taken(cpm, twin, attack):
    patch = attack(twin)
    before = cpm.call("status")

    twin.write(patch)

    assert cpm.call("status") == before
    assert OTHER not in _held(cpm)
    assert twin.told() == TWIN_ATTACKS[attack]
    honest = twin.made(9, {NAME: 4})
    twin.write({"confidential_package_release": None, "confidential_package_keys": None})
    twin.write(honest)
    twin.pass_time()
    assert cpm.call("status")["sequence"] == 9
    assert 4 in _held(cpm)[NAME]


# ── a malicious host: what it hands to the CPM ────────────────────────────────────────────────────────────


def _refusal(call):
    try:
        call()
    except EdbError as error:
        return error.code
    return None


def test_key_for_the_device_that_no_release_names_is_refused(cpm):
    cpm.apply(sequence=1, keys={NAME: 1})
    spki = cpm.call("device_public_key")["spki"]
    planted = wrap_key(
        cpm.cloud.class_key("planted"),
        load_public_key(spki, where="test"),
        WrapAlgorithm.HPKE_P256,
        context=WrapContext(audience=AUDIENCE, device_id=DEVICE_ID, name=NAME, version=1),
    )

    assert (
        _refusal(lambda: cpm.call("install_application_key", application_id=NAME, wrapped_key=planted))
        == "rollback"
    )
    release, wrapped = cpm.cloud.release(spki, sequence=2, keys={NAME: 1})
    for handed in ({**wrapped, "planted": planted}, {NAME: planted}, {}):
        assert _refusal(lambda handed=handed: cpm.call("apply_release", release=release, wrapped_keys=handed))
    assert cpm.call("status")["sequence"] == 1
    assert cpm.call("apply_release", release=release, wrapped_keys=wrapped)["applied"] is True


def test_release_cut_anywhere_is_refused(cpm):
    spki = cpm.call("device_public_key")["spki"]
    release, wrapped = cpm.cloud.release(spki, sequence=1, keys={NAME: 1})
    with cpm.connect() as connection:
        for length in range(len(release)):
            arguments = {"release": release[:length], "wrapped_keys": wrapped}
            assert _refusal(lambda given=arguments: connection.call("apply_release", given)) is not None
    assert cpm.call("status")["latched_v2"] is False


# ── a malicious host: what it passes for a package ────────────────────────────────────────────────────────


@pytest.fixture
def ready(cpm):
    cpm.apply(sequence=1, keys={NAME: 1})
    return cpm


def _fifo(folder):
    os.mkfifo(folder / "fifo")
    return os.open(folder / "fifo", os.O_RDWR)


def _sparse(folder):
    """A file of a TiB that takes no room."""
    fd = os.open(folder / "sparse", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 40)
    return fd


def _symlink(folder):
    (folder / "link").symlink_to("/etc/shadow")
    return os.open(folder / "link", os.O_PATH | os.O_NOFOLLOW)


def _socket(_folder):
    ours, theirs = socket.socketpair()
    ours.close()
    return theirs.detach()


DESCRIPTORS = {
    "fifo": _fifo,
    "folder": lambda folder: os.open(folder, os.O_RDONLY),
    "path only": lambda _folder: os.open("/bin/sh", os.O_PATH),
    "symlink": _symlink,
    "write only": lambda folder: os.open(folder / "w", os.O_WRONLY | os.O_CREAT),
    "socket": _socket,
    "null": lambda _folder: os.open("/dev/null", os.O_RDONLY),
    "endless": lambda _folder: os.open("/dev/zero", os.O_RDONLY),
    "own memory": lambda _folder: os.open("/proc/self/mem", os.O_RDONLY),
    "event": lambda _folder: os.eventfd(0),
    "empty": lambda folder: os.open(folder / "empty", os.O_RDWR | os.O_CREAT),
    "sparse": _sparse,
}


@pytest.mark.parametrize("kind", DESCRIPTORS)
def test_descriptor_that_is_no_package_is_refused_at_once(ready, tmp_path, kind):
    fd = DESCRIPTORS[kind](tmp_path)
    try:
        with pytest.raises(FormatError):
            ready.call("install", fds=[fd])
    finally:
        os.close(fd)
    assert list((ready.state / "packages").iterdir()) == []
    assert ready.install()["cp_id"] == CP_ID


def test_descriptor_of_the_cpms_own_memory_is_refused(ready):
    """The file was opened by the client for the CPM's memory, where the device key is."""
    fd = os.open(f"/proc/{ready.process.pid}/mem", os.O_RDONLY)
    try:
        with pytest.raises(FormatError):
            ready.call("install", fds=[fd])
    finally:
        os.close(fd)


@pytest.mark.parametrize("change", ["shrinks", "grows", "changes"])
def test_file_that_changes_while_it_is_read_is_refused_or_what_was_verified(ready, tmp_path, change):
    payload = SCRIPT + b"#" * (3 << 20)
    good = ready.package(payload)
    path = tmp_path / "moving"
    path.write_bytes(good)
    stop = threading.Event()

    def disturb():
        with path.open("r+b") as file:
            while not stop.is_set():
                match change:
                    case "shrinks":
                        file.truncate(len(good) // 2)
                        file.truncate(len(good))
                    case "grows":
                        file.truncate(len(good) + (1 << 20))
                        file.truncate(len(good))
                    case "changes":
                        os.pwrite(file.fileno(), b"exit 9 #", len(good) // 2)
                        os.pwrite(file.fileno(), good[len(good) // 2 :][:8], len(good) // 2)
                if change == "shrinks":
                    os.pwrite(file.fileno(), good[len(good) // 2 :], len(good) // 2)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        with path.open("rb") as file:
            for _ in range(10):
                refused = _refusal(lambda: ready.call("install", fds=[file.fileno()]))
                assert refused in (None, "malformed", "tag_mismatch", "digest_mismatch", "signature_invalid")
    finally:
        stop.set()
        thread.join()
    path.write_bytes(good)
    with path.open("rb") as file:
        ready.call("install", fds=[file.fileno()])
    assert ready.command_line("run", CP_ID).returncode == 5


def test_package_swapped_after_it_was_opened_does_not_matter(ready, tmp_path):
    path = tmp_path / "package"
    path.write_bytes(ready.package())
    with path.open("rb") as file:
        (tmp_path / "evil").write_bytes(os.urandom(4096))
        (tmp_path / "evil").replace(path)
        assert ready.call("install", fds=[file.fileno()])["version"] == "1.0.0"
    with path.open("rb") as file, pytest.raises(FormatError):
        ready.call("install", fds=[file.fileno()])
    assert ready.command_line("run", CP_ID).returncode == 5


def test_link_in_the_packages_folder_is_not_followed(ready, tmp_path):
    ready.install()
    (sealed,) = (ready.state / "packages").iterdir()
    moved = tmp_path / "moved"
    sealed.rename(moved)
    sealed.symlink_to(moved)

    assert b"cannot open sealed file" in ready.command_line("run", CP_ID).stderr


def test_links_in_place_of_the_cpms_files_are_not_followed(cpm, tmp_path):
    cpm.apply(sequence=1, keys={NAME: 1})
    cpm.stop()
    for name in ("state.sealed", "device.key", "lock"):
        path = cpm.state / name
        moved = tmp_path / f"moved-{name}"
        path.rename(moved)
        path.symlink_to(moved)
        before = moved.read_bytes()

        refused = _try_to_start(cpm)

        assert refused.returncode == 1, name
        assert "Traceback" not in refused.stderr
        assert moved.read_bytes() == before
        path.unlink()
        moved.rename(path)
    cpm.start()
    assert _held(cpm) == {NAME: [1]}


def test_quota_holds_against_a_client_that_fills_the_disk(cpm):
    cpm.stop()
    cpm.options = ("--quota", "3M")
    cpm.start()
    cpm.apply(sequence=1, keys={NAME: 1})
    cpm.install(SCRIPT + b"#" * (1 << 20))
    for number in range(5):
        with pytest.raises(StorageError) as refused:
            cpm.install(SCRIPT + b"#" * (2 << 20), version=(2, number, 0))
        assert refused.value.code == "storage_full"

    assert len(list((cpm.state / "packages").iterdir())) == 1
    assert cpm.call("status")["storage"]["quota"] == 3 << 20
    assert " of 3145728" in cpm.command_line("status").stdout.decode()
    assert cpm.command_line("run", CP_ID).returncode == 5


# ── a malicious host: the socket ──────────────────────────────────────────────────────────────────────────


def _try_to_start(cpm, **replaced):
    return subprocess.run(
        cpm.command(**replaced), capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_strangers_socket_in_the_cpms_place_is_not_taken_over(cpm):
    cpm.stop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as squatter:
        squatter.bind(str(cpm.socket))
        squatter.listen()

        refused = _try_to_start(cpm)

        assert refused.returncode == 1
        assert "another process answers" in refused.stderr
        assert stat.S_ISSOCK(cpm.socket.lstat().st_mode)


def test_link_in_the_sockets_place_is_refused_and_what_it_names_stays(cpm, tmp_path):
    cpm.stop()
    precious = tmp_path / "precious"
    precious.write_text("precious")
    cpm.socket.symlink_to(precious)

    refused = _try_to_start(cpm)

    assert refused.returncode == 1
    assert "is no socket" in refused.stderr
    assert precious.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
@pytest.mark.parametrize("linked", [False, True], ids=["folder", "link"])
def test_socket_folder_of_somebody_else_is_refused(cpm, tmp_path, linked):
    cpm.stop()
    folder = tmp_path / "theirs"
    if linked:
        (tmp_path / "real").mkdir()
        folder.symlink_to(tmp_path / "real")
    else:
        folder.mkdir()
    os.chown(folder, 12345, 12345, follow_symlinks=False)

    refused = _try_to_start(cpm, socket=str(folder / "cpm.sock"))

    assert refused.returncode == 1
    assert "found user 12345" in refused.stderr


def test_link_to_a_socket_folder_of_everybody_is_refused(cpm, tmp_path):
    cpm.stop()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)
    (tmp_path / "run2").symlink_to(tmp_path / "open")

    refused = _try_to_start(cpm, socket=str(tmp_path / "run2" / "cpm.sock"))

    assert refused.returncode == 1
    assert "not everybody may write" in refused.stderr


# ── the list ──────────────────────────────────────────────────────────────────────────────────────────────


def test_guide_names_a_test_that_exists_for_every_attack():
    guide = (ROOT / "docs" / "guides" / "device-cpm.md").read_text()
    table = guide.split("| attack | what happens | test |")[1].split("\n\n")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    assert len(rows) > 20
    for attack, _, tests in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)` `(\w+)(?:\[(\w+)\])?`", tests)
        assert named, attack
        for path, function, case in named:
            source = (ROOT / path).read_text()
            assert f"\ndef {function}(" in source, f"{attack}: {path} {function}"
            assert not case or f"\ndef _{case}(" in source, f"{attack}: {path} {case}"


def test_every_attack_of_the_twin_stands_in_the_guide():
    guide = (ROOT / "docs" / "guides" / "device-cpm.md").read_text()
    for attack in TWIN_ATTACKS:
        assert f"[{attack.__name__.strip('_')}]" in guide
