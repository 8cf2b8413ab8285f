"""Installing and running: what holds is installed and runs from memory, everything else leaves no trace."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
from simulators.counting_custody import Counter, Power
from simulators.releasing_cloud import CP_ID, NAME, make_vendor

from cpm import packages, workload
from cpm.custody.software import SoftwareCustody
from cpm.sealed_store import SEGMENT_BYTES, sealed_size
from cpm.state import InstalledPackage, State
from cpm.state_file import LockedFolder
from shared.errors import (
    EdbError,
    FormatError,
    KeyUnavailable,
    NotFound,
    StorageError,
    TransportError,
    VerificationError,
)
from shared.types import Audience, DeviceId, Secret

SCRIPT = b"""#!/bin/sh
# a payload that nobody may see
echo "$CP_ID $CP_VERSION $*"
cat
echo to-stderr >&2
exit 7
"""


def _package(device, payload=SCRIPT, **more):
    return device.vendor.package(payload, device.cloud.class_key(NAME, more.get("key_version") or 1), **more)


@pytest.fixture
def ready(device):
    device.apply(sequence=1, keys={NAME: 1})
    return device


def _sealed_files(device):
    return [name for name in device.files() if name.startswith("packages/")]


def test_package_is_installed_listed_and_survives_a_restart(ready):
    reply = ready.install(_package(ready, version=(1, 2, 3)))

    assert reply == {
        "cp_id": CP_ID,
        "name": "Digits",
        "vendor": "Contoso",
        "version": "1.2.3",
        "size": len(SCRIPT),
        "key_version": 1,
        "package_signed": True,
    }
    ready.start()
    told = {"name": "Digits", "version": "1.2.3", "state": "installed", "size": len(SCRIPT)}
    assert ready.call("list") == {"packages": {CP_ID: told}}
    assert ready.call("status")["packages"] == {CP_ID: told}


def test_workload_gets_its_streams_arguments_and_environment_and_its_status_comes_back(ready):
    ready.install(_package(ready))

    assert ready.run(CP_ID, "one", "two words", stdin=b"from stdin\n") == (
        7,
        b"my_confidential_app 1.0.0 one two words\nfrom stdin\n",
        b"to-stderr\n",
    )


def test_workload_inherits_nothing_else(ready, monkeypatch):
    monkeypatch.setenv("PLANTED_IN_THE_ENVIRONMENT", "secret")
    ready.install(
        _package(
            ready,
            f"""#!{sys.executable} -I
import os, resource, pathlib
print(sorted(os.environ.keys() - {{"LC_CTYPE"}}))
print(sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{{fd}}"))[:3])
print([os.readlink(f"/proc/self/fd/{{fd}}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and
       os.path.lexists(f"/proc/self/fd/{{fd}}")])
print(os.getcwd(), os.getsid(0) == os.getpid(), resource.getrlimit(resource.RLIMIT_CORE))
print([line.split()[1] for line in pathlib.Path("/proc/self/status").read_text().splitlines()
       if line.startswith(("NoNewPrivs", "SigIgn"))])
""".encode(),
        )
    )

    status, out, err = ready.run(CP_ID)

    lines = out.decode().splitlines()
    assert (status, err) == (0, b"")
    assert lines[0] == "['CP_ID', 'CP_VERSION', 'LANG', 'PATH']"
    assert lines[1] == "[0, 1, 2]"
    assert all("memfd:payload" in name for name in lines[2].strip("[]").split(", ")), lines[2]
    assert lines[3] == "/ True (0, 0)"
    assert "'1'" in lines[4]


def test_python_zipapp_runs(ready, tmp_path):
    archive = tmp_path / "app.pyz"
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("__main__.py", "import sys, answers\nprint(answers.answer(sys.stdin.read()))\n")
        bundle.writestr("answers.py", "def answer(text):\n    return text.upper()\n")
    ready.install(_package(ready, f"#!{sys.executable}\n".encode() + archive.read_bytes()))

    assert ready.run(CP_ID, stdin=b"seven") == (0, b"SEVEN\n", b"")


def test_binary_runs(ready):
    ready.install(_package(ready, Path("/bin/cat").read_bytes()))

    assert ready.run(CP_ID, stdin=b"through a binary") == (0, b"through a binary", b"")


def test_payload_that_is_no_program_is_told_on_its_own_stderr(ready):
    ready.install(_package(ready, b"\0\1\2 not a program"))

    status, out, err = ready.run(CP_ID)

    assert (status, out) == (126, b"")
    assert b"does not start" in err


def test_workload_that_a_signal_ends_has_the_shells_status(ready):
    ready.install(_package(ready, b"#!/bin/sh\nkill -TERM $$\n"))

    assert ready.run(CP_ID)[0] == 128 + 15


def test_workload_cannot_change_its_own_payload(ready):
    script = f"""#!{sys.executable} -I
import os, sys
try:
    os.write(os.open(sys.argv[0], os.O_RDWR), b"x")
except OSError as error:
    print(error.errno)
"""
    ready.install(_package(ready, script.encode()))

    assert ready.run(CP_ID) == (0, f"{errno.EPERM}\n".encode(), b"")


def test_client_that_hangs_up_ends_its_workload(ready, tmp_path):
    ready.install(_package(ready, b"#!/bin/sh\necho $$\nexec sleep 600\n"))
    read, write = os.pipe()
    ours, theirs = socket.socketpair()
    result = []
    null = os.open("/dev/null", os.O_RDWR)
    thread = threading.Thread(
        target=lambda: result.append(
            ready.call("run", cp_id=CP_ID, arguments=[], fds=(null, write, null), client=theirs.fileno())
        )
    )
    thread.start()
    pid = int(os.read(read, 32))

    ours.close()
    thread.join(30)

    assert result == [{"exit_status": 128 + 9}]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    for fd in (read, write, null):
        os.close(fd)
    theirs.close()


def test_what_a_workload_leaves_running_is_killed_with_it(ready):
    ready.install(_package(ready, b"#!/bin/sh\nsleep 600 >/dev/null 2>&1 </dev/null &\necho $!\n"))

    status, out, _ = ready.run(CP_ID)

    assert status == 0
    deadline = time.monotonic() + 30
    while _state_of(int(out)) != "Z":
        assert time.monotonic() < deadline


def _state_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def test_arguments_that_no_process_can_have_are_refused(ready):
    ready.install(_package(ready))

    with pytest.raises(FormatError) as refused:
        ready.run(CP_ID, "a\0b")
    assert refused.value.code == "request_invalid"
    with pytest.raises(EdbError) as failed:
        ready.run(CP_ID, *(["x"] * 1_000_000))
    assert failed.value.code == "workload_failed"


def test_package_that_is_not_installed_does_not_run(ready):
    with pytest.raises(NotFound):
        ready.run("../state.sealed")


# ── refusals leave nothing behind ─────────────────────────────────────────────────────────────────────────


def _flip(data, position):
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize(
    ("break_it", "error", "code"),
    [
        (lambda package: package[:100], FormatError, "malformed"),
        (lambda package: b"", FormatError, "malformed"),
        (lambda package: os.urandom(4096), FormatError, "malformed"),
        (lambda package: _flip(package, 16 + 16 * 9 + 10), VerificationError, "tag_mismatch"),
    ],
    ids=["cut", "empty", "noise", "payload"],
)
def test_broken_package_is_refused_and_leaves_nothing(ready, break_it, error, code):
    files = ready.files()

    with pytest.raises(error) as refused:
        ready.install(break_it(_package(ready)))

    assert refused.value.code == code
    assert ready.files() == files


def test_package_under_a_key_that_is_not_held_is_refused(ready):
    with pytest.raises(KeyUnavailable) as refused:
        ready.install(_package(ready, key_version=2))

    assert refused.value.code == "key_unavailable"
    assert _sealed_files(ready) == []


def test_package_under_a_revoked_key_is_refused(ready):
    package = _package(ready)
    ready.apply(sequence=2, keys={NAME: 2}, floors={NAME: 2})

    with pytest.raises(KeyUnavailable) as refused:
        ready.install(package)

    assert refused.value.code == "key_revoked"
    assert _sealed_files(ready) == []


def test_package_without_key_version_opens_with_the_newest_key(ready):
    ready.apply(sequence=2, keys={NAME: 2})
    package = ready.vendor.package(SCRIPT, ready.cloud.class_key(NAME, 2), key_version=None)

    assert ready.install(package)["key_version"] == 2


def test_unsigned_package_is_refused(ready):
    with pytest.raises(VerificationError) as refused:
        ready.install(_package(ready, signed=False))

    assert refused.value.code == "unsigned"


def test_cpm_that_demands_a_signature_over_the_whole_takes_a_package_that_has_one(ready):
    ready.require_package_signature = True
    ready.start()

    assert ready.install(_package(ready))["package_signed"] is True


def test_package_of_a_vendor_that_is_not_trusted_is_refused(ready):
    stranger = make_vendor().package(SCRIPT, ready.cloud.class_key(NAME, 1))

    with pytest.raises(VerificationError) as refused:
        ready.install(stranger)

    assert refused.value.code == "certificate_untrusted"
    assert _sealed_files(ready) == []


def test_certificate_is_judged_at_the_proven_time_and_not_by_a_clock_that_was_set_back(ready):
    now = int(time.time())
    package = _package(ready)
    ready.apply(
        sequence=2, keys={NAME: 1}, issued_at=now + 40 * 86400, lease_seconds=86400
    )  # the certificate ends after 30 days
    ready.now = now

    with pytest.raises(VerificationError) as refused:
        ready.install(package)

    assert refused.value.code == "certificate_expired"


def test_older_version_is_refused_after_a_newer_one_even_when_that_was_uninstalled(ready):
    old = _package(ready, version=(1, 9, 0))
    ready.install(_package(ready, SCRIPT + b"# new\n", version=(1, 10, 0)))
    ready.call("uninstall", cp_id=CP_ID)
    ready.start()

    with pytest.raises(VerificationError) as refused:
        ready.install(old)

    assert refused.value.code == "rollback"
    assert "1.10.0" in str(refused.value)
    assert _sealed_files(ready) == []


def test_same_package_again_is_fine_and_keeps_one_file(ready):
    ready.install(_package(ready))

    ready.install(_package(ready))

    assert len(_sealed_files(ready)) == 1
    assert ready.run(CP_ID)[0] == 7


def test_another_payload_under_the_installed_version_is_refused(ready):
    ready.install(_package(ready))
    files = ready.files()

    with pytest.raises(VerificationError) as refused:
        ready.install(_package(ready, SCRIPT.replace(b"7", b"8")))

    assert refused.value.code == "rollback"
    assert ready.files() == files


def test_update_replaces_the_payload_and_removes_the_old_file(ready):
    ready.install(_package(ready))
    before = _sealed_files(ready)

    ready.install(_package(ready, b"#!/bin/sh\nexit 3\n", version=(1, 1, 0)))

    after = _sealed_files(ready)
    assert len(after) == 1
    assert after != before
    assert ready.run(CP_ID)[0] == 3


def test_uninstall_removes_the_file_and_a_second_one_finds_nothing(ready):
    ready.install(_package(ready))

    ready.call("uninstall", cp_id=CP_ID)

    assert _sealed_files(ready) == []
    assert ready.call("list") == {"packages": {}}
    with pytest.raises(NotFound):
        ready.call("uninstall", cp_id=CP_ID)


def test_two_packages_stand_side_by_side(ready):
    ready.install(_package(ready))
    ready.install(_package(ready, b"#!/bin/sh\nexit 4\n", cp_id="../../etc/other"))

    assert ready.run("../../etc/other")[0] == 4
    assert ready.run(CP_ID)[0] == 7
    assert len(_sealed_files(ready)) == 2


# ── storage ───────────────────────────────────────────────────────────────────────────────────────────────


def test_payload_stands_in_no_file_in_clear(ready):
    payload = SCRIPT + os.urandom(3 * SEGMENT_BYTES)
    ready.install(_package(ready, payload))

    stored = b"".join(ready.files().values())
    for start in range(0, len(payload) - 64, 64 * 1024):
        assert payload[start : start + 64] not in stored
    assert ready.cloud.class_key().reveal() not in stored


def test_full_disk_while_staging_leaves_nothing(ready, monkeypatch):
    files = ready.files()
    package = _package(ready, os.urandom(2 * SEGMENT_BYTES))
    real_write = os.write

    def no_room_for_segments(fd, data):
        if len(data) > SEGMENT_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(fd, data)

    with monkeypatch.context() as fault:
        fault.setattr(os, "write", no_room_for_segments)
        with pytest.raises(StorageError) as refused:
            ready.install(package)

    assert refused.value.code == "storage_full"
    assert ready.files() == files


def test_full_disk_while_the_state_is_written_leaves_the_old_package(ready, monkeypatch):
    ready.install(_package(ready))
    files = ready.files()

    def no_room(_self, _target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as fault:
        fault.setattr("pathlib.Path.replace", no_room)
        with pytest.raises(StorageError):
            ready.install(_package(ready, b"#!/bin/sh\nexit 3\n", version=(2, 0, 0)))

    assert {name for name in ready.files() if name.startswith("packages/")} == {
        name for name in files if name.startswith("packages/")
    }
    assert ready.run(CP_ID)[0] == 7


def test_what_a_crash_left_in_the_packages_folder_is_removed_at_the_next_start(ready):
    ready.install(_package(ready))
    kept = _sealed_files(ready)
    folder = ready.folder / "packages"
    (folder / ("0" * 32 + ".part")).write_bytes(b"half a segment")
    (folder / ("1" * 32)).write_bytes(b"finished, and then the power went")

    ready.start()

    assert _sealed_files(ready) == kept
    assert ready.run(CP_ID)[0] == 7


def test_damaged_sealed_file_does_not_run_and_can_be_installed_again(ready):
    package = _package(ready)
    ready.install(package)
    path = ready.folder / _sealed_files(ready)[0]
    path.write_bytes(_flip(path.read_bytes(), 30))

    with pytest.raises(StorageError) as refused:
        ready.run(CP_ID)
    assert refused.value.code == "storage_damaged"

    path.unlink()
    assert ready.call("list")["packages"][CP_ID]["state"] == "damaged"
    ready.install(package)
    assert ready.run(CP_ID)[0] == 7


def test_passed_descriptor_must_be_a_regular_file_open_for_reading(ready, tmp_path):
    read, write = os.pipe()
    written = os.open(tmp_path / "w", os.O_WRONLY | os.O_CREAT)
    folder = os.open(tmp_path, os.O_RDONLY)
    path_only = os.open(tmp_path / "w", os.O_PATH)
    try:
        for fd in (read, written, folder, path_only):
            with pytest.raises(FormatError) as refused:
                ready.call("install", fds=(fd,))
            assert refused.value.code == "request_invalid"
    finally:
        for fd in (read, write, written, folder, path_only):
            os.close(fd)


def test_package_that_changes_while_it_is_read_is_refused_or_what_was_verified(ready, tmp_path):
    good = _package(ready, SCRIPT + b"#" * (6 * SEGMENT_BYTES))
    path = tmp_path / "moving"
    path.write_bytes(good)
    stop = threading.Event()

    def scribble():
        with path.open("r+b") as file:
            while not stop.is_set():
                for content in (b"exit 9 #", good[300:308]):
                    file.seek(300)
                    file.write(content)
                    file.flush()

    thread = threading.Thread(target=scribble)
    thread.start()
    fd = os.open(path, os.O_RDONLY)
    try:
        for _ in range(5):
            try:
                ready.call("install", fds=(fd,))
            except VerificationError:
                continue
            assert ready.run(CP_ID)[0] == 7
    finally:
        stop.set()
        thread.join()
        os.close(fd)


def test_clients_seeks_do_not_disturb_reading(ready, tmp_path):
    path = tmp_path / "package"
    path.write_bytes(_package(ready))
    fd = os.open(path, os.O_RDONLY)
    try:
        os.lseek(fd, 1234, os.SEEK_SET)
        assert ready.call("install", fds=(fd,))["cp_id"] == CP_ID
        assert os.lseek(fd, 0, os.SEEK_CUR) == 1234
    finally:
        os.close(fd)


# ── rules alone ───────────────────────────────────────────────────────────────────────────────────────────


def _record(version=(1, 0, 0), *, package_signed=True):
    return InstalledPackage(
        name="n",
        vendor="v",
        version=version,
        key_name=NAME,
        key_version=1,
        package_signed=package_signed,
        file="0" * 32,
        file_key=Secret(bytes(32)),
        size=1,
    )


def test_id_that_was_once_signed_as_a_whole_needs_it_from_then_on():
    empty = State(audience=Audience("a"), device_id=DeviceId("d"))
    signed = packages.with_package(empty, "x", _record())
    later = packages.without_package(signed, "x")

    with pytest.raises(VerificationError) as refused:
        packages.check_acceptable(later, "x", _record((2, 0, 0), package_signed=False))

    assert refused.value.code == "package_unsigned"
    packages.check_acceptable(later, "y", _record(package_signed=False))
    packages.check_acceptable(later, "x", _record((2, 0, 0)))


def test_memory_file_is_sealed_against_every_change():
    memfd = workload.load_payload([b"one", b"two"])
    try:
        assert os.pread(memfd, 10, 0) == b"onetwo"
        for change in (
            lambda: os.pwrite(memfd, b"x", 0),
            lambda: os.ftruncate(memfd, 1),
            lambda: os.ftruncate(memfd, 100),
        ):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(memfd)


def test_state_folder_is_used_by_one_process_at_a_time(ready):
    program = (
        "import sys, pathlib\n"
        "from cpm.state_file import LockedFolder\n"
        "from shared.errors import Conflict\n"
        "try:\n    LockedFolder.open(pathlib.Path(sys.argv[1]))\n"
        "except Conflict as error:\n    print(error.code)\n"
    )
    with LockedFolder.open(ready.folder):
        other = subprocess.run(
            [sys.executable, "-c", program, str(ready.folder)], capture_output=True, text=True, check=True
        )

    assert other.stdout == "state_locked\n"


@pytest.mark.parametrize("effects", [0, 1], ids=["before it counted", "after it counted"])
def test_install_whose_state_was_written_and_not_confirmed_keeps_both_payloads(ready, monkeypatch, effects):
    """The counter's answer is missing: memory has the old package, the disk may have the new one."""
    counter = Counter(Power())
    monkeypatch.setattr(SoftwareCustody, "counter", counter)
    (ready.folder / "state.sealed").unlink()
    (ready.folder / "device.key").unlink()
    ready.start()
    ready.apply(sequence=1, keys={NAME: 1})
    ready.install(_package(ready))
    counter.power.fail_after(effects)

    with pytest.raises(TransportError) as failed:
        ready.install(_package(ready, b"#!/bin/sh\nexit 3\n", version=(2, 0, 0)))

    assert failed.value.code == "custody_unavailable"
    assert ready.run(CP_ID)[0] == 7
    assert len(_sealed_files(ready)) == 2
    ready.start()
    assert ready.run(CP_ID)[0] == 3
    assert len(_sealed_files(ready)) == 1


# ── quota and limits ──────────────────────────────────────────────────────────────────────────────────────


def _storage(device):
    return device.call("status")["storage"]


def test_package_beyond_the_quota_is_refused_before_it_is_read_and_nothing_changes(ready):
    ready.install(_package(ready))
    used = _storage(ready)["used"]
    ready.quota = used + 1000
    ready.start()
    files = ready.files()

    with pytest.raises(StorageError) as refused:
        ready.install(_package(ready, SCRIPT + b"#" * 2000, version=(2, 0, 0)))

    assert refused.value.code == "storage_full"
    assert ready.files() == files
    assert _storage(ready) == {"used": used, "quota": used + 1000}
    assert ready.run(CP_ID)[0] == 7


def test_quota_is_free_again_after_refused_packages_replacements_and_uninstalling(ready):
    one = sealed_size(len(SCRIPT))
    ready.quota = 2 * one + 1
    ready.start()
    for _ in range(5):
        with pytest.raises(VerificationError):
            ready.install(_flip(_package(ready), 16 + 16 * 9 + 10))
    for revision in range(5):
        ready.install(_package(ready, version=(1, 0, revision)))
        assert _storage(ready)["used"] == one
    ready.install(_package(ready, cp_id="another"))
    with pytest.raises(StorageError):
        ready.install(_package(ready, version=(2, 0, 0)))  # the old payload stays until the new one is there
    for cp_id in (CP_ID, "another"):
        ready.call("uninstall", cp_id=cp_id)

    assert _storage(ready) == {"used": 0, "quota": 2 * one + 1}
    assert _sealed_files(ready) == []


def test_what_a_crash_left_is_free_again_after_the_next_start(ready):
    (ready.folder / "packages" / ("1" * 32)).write_bytes(bytes(5000))
    ready.quota = 4000

    ready.start()

    assert _storage(ready)["used"] == 0
    ready.install(_package(ready))


def test_packages_and_ids_have_a_limit_that_lets_updates_through(ready, monkeypatch):
    monkeypatch.setattr(packages, "MAX_PACKAGES", 2)
    monkeypatch.setattr(packages, "MAX_PACKAGE_IDS", 3)
    ready.install(_package(ready))
    ready.install(_package(ready, cp_id="second"))
    with pytest.raises(StorageError) as refused:
        ready.install(_package(ready, cp_id="third"))
    assert refused.value.code == "storage_full"
    assert len(_sealed_files(ready)) == 2
    ready.install(_package(ready, version=(1, 1, 0)))

    ready.call("uninstall", cp_id="second")
    ready.install(_package(ready, cp_id="third"))
    ready.call("uninstall", cp_id="third")
    with pytest.raises(StorageError):
        ready.install(_package(ready, cp_id="fourth"))
    ready.install(_package(ready, cp_id="second"))


def test_state_that_would_not_be_read_again_is_not_written(ready, monkeypatch):
    monkeypatch.setattr("cpm.state.MAX_DOCUMENT", 600)
    files = ready.files()

    with pytest.raises(StorageError) as refused:
        ready.install(_package(ready, cp_id="x" * 256))

    assert refused.value.code == "storage_full"
    assert ready.files() == files
