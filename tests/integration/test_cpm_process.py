"""The CPM as a process: its socket, its clients good and bad, and what is left when it is killed."""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from simulators.cpm_process import CPM, SCRIPT, SECONDS, Cpm
from simulators.releasing_cloud import CP_ID, DEVICE_ID, NAME

from shared.encoding import encode_cbor
from shared.errors import FormatError, PolicyDenied, TransportError, VerificationError
from shared.wire.cpm_channel import read_frame, write_frame


@pytest.fixture
def cpm(tmp_path):
    device = Cpm(folder=tmp_path)
    device.start()
    yield device
    if device.process.poll() is None:
        device.kill()


# ── the whole way ─────────────────────────────────────────────────────────────────────────────────────────


def test_release_package_workload_and_restart(cpm):
    assert cpm.apply(sequence=1, keys={NAME: 1})["applied"] is True
    assert cpm.install()["version"] == "1.0.0"

    ran = cpm.command_line("run", CP_ID, "--", "--flag", "word", stdin=b"input")
    assert (ran.returncode, ran.stdout, ran.stderr) == (5, b"running 1.0.0 --flag word\ninput", b"")

    before = cpm.call("status")
    assert cpm.stop() == 0
    assert not cpm.socket.exists()
    cpm.start()
    assert cpm.call("status") == before
    assert cpm.command_line("run", CP_ID).returncode == 5


def test_commands_report_in_text_and_json(cpm):
    cpm.apply(sequence=1, keys={NAME: 1}, floors={NAME: 1})
    cpm.install()

    status = json.loads(cpm.command_line("status", "--json").stdout)
    assert status["device_id"] == DEVICE_ID
    assert status["keys"][NAME][0]["version"] == 1
    assert len(status["fingerprint"]) == 64
    listed = json.loads(cpm.command_line("list", "--json").stdout)
    assert listed["packages"][CP_ID]["version"] == "1.0.0"
    assert CP_ID in cpm.command_line("list").stdout.decode()
    assert f"class key {NAME}: version 1" in cpm.command_line("status").stdout.decode()
    assert cpm.command_line("uninstall", CP_ID).returncode == 0
    missing = cpm.command_line("uninstall", CP_ID)
    assert missing.returncode == 1
    assert missing.stderr.startswith(b"cpm: error: package ")


def test_names_of_the_edl_are_answered(tmp_path):
    device = Cpm(folder=tmp_path, options=("--key-type", "rsa2048"))
    device.start()
    try:
        exported = device.call("export_device_public_key")["data"]
        assert device.call("get_device_public_key_data_size") == {"size": len(exported)}
        assert exported[:2] == b"\x30\x82"
        supported = {
            name: device.call("is_operation_supported", operation=name)["supported"]
            for name in ("ping", "install_application_key", "begin_application_deployment", "nonsense")
        }
        assert supported == {
            "ping": True,
            "install_application_key": True,
            "begin_application_deployment": False,
            "nonsense": False,
        }
        ping = device.call("ping")
        assert ping["contract"] == 1
        assert ping["fingerprint"] == device.call("device_public_key")["fingerprint"]
    finally:
        device.kill()


# ── killed ────────────────────────────────────────────────────────────────────────────────────────────────


def test_killed_and_started_again_it_holds_what_it_answered(cpm):
    cpm.apply(sequence=1, keys={NAME: 1})
    cpm.kill()
    cpm.start()
    cpm.install()
    cpm.kill()
    cpm.start()

    assert cpm.call("status")["sequence"] == 1
    assert cpm.command_line("run", CP_ID).returncode == 5
    with pytest.raises(VerificationError):
        cpm.apply(sequence=1, keys={NAME: 2})


def test_killed_while_it_installs_it_holds_the_old_package_or_the_new(cpm):
    """Kill at many moments of an update: whatever was reached, the package that is listed runs."""
    cpm.apply(sequence=1, keys={NAME: 1})
    cpm.install()
    seen = set()
    for number in range(1, 13):
        payload = SCRIPT + b"#" * (8 << 20)
        package = cpm.vendor.package(payload, cpm.cloud.class_key(), version=(1, number, 0))
        path = cpm.folder / "package.cpk"
        path.write_bytes(package)
        with path.open("rb") as file, cpm.connect() as connection:
            write_frame(connection._sock, {"op": "install"}, fds=[file.fileno()])
            select.select([connection._sock], [], [], number * 0.005)
            cpm.kill()
        cpm.start()
        version = cpm.call("list")["packages"][CP_ID]["version"]
        seen.add(version)
        ran = cpm.command_line("run", CP_ID)
        assert (ran.returncode, ran.stdout) == (5, f"running {version} \n".encode())
        assert len(list((cpm.state / "packages").iterdir())) == 1
    assert seen <= {"1.0.0", *(f"1.{number}.0" for number in range(1, 13))}


def test_workload_does_not_outlive_a_killed_cpm(cpm):
    cpm.apply(sequence=1, keys={NAME: 1})
    cpm.install(b"#!/bin/sh\necho started\nexec sleep 600\n")
    client = subprocess.Popen(
        [CPM, "run", CP_ID, "--socket", cpm.socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert client.stdout.readline() == b"started\n"

    cpm.kill()

    # The output ends for its reader when the last process that holds it is gone, the workload included.
    _, errors = client.communicate(timeout=SECONDS)
    assert client.returncode == 1
    assert b"cpm: error:" in errors


def test_stopping_ends_workloads_and_idle_clients(cpm):
    cpm.apply(sequence=1, keys={NAME: 1})
    cpm.install(b"#!/bin/sh\necho started\nexec sleep 600\n")
    idle = cpm.connect()
    idle.call("ping")
    client = subprocess.Popen([CPM, "run", CP_ID, "--socket", cpm.socket], stdout=subprocess.PIPE)
    assert client.stdout.readline() == b"started\n"

    assert cpm.stop() == 0

    client.communicate(timeout=SECONDS)
    assert client.returncode != 0
    with pytest.raises(TransportError):
        idle.call("ping")


def test_signal_that_another_thread_takes_stops_it_too(cpm):
    with cpm.connect() as client:
        client.call("ping")
        pid = cpm.process.pid
        (thread,) = {int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()} - {pid}
        ctypes.CDLL(None).tgkill(pid, thread, signal.SIGTERM)
        assert cpm.process.wait(SECONDS) == 0
        cpm.process.stdout.close()


def test_interrupted_client_ends_its_workload(cpm):
    cpm.apply(sequence=1, keys={NAME: 1})
    cpm.install(b"#!/bin/sh\necho started\nexec sleep 600\n")
    client = subprocess.Popen([CPM, "run", CP_ID, "--socket", cpm.socket], stdout=subprocess.PIPE)
    assert client.stdout.readline() == b"started\n"

    client.kill()
    client.communicate(timeout=SECONDS)  # the output ends: the workload, which holds it too, is gone

    assert cpm.call("ping")["contract"] == 1


# ── starting ──────────────────────────────────────────────────────────────────────────────────────────────


def _try_to_start(cpm, **replaced):
    return subprocess.run(
        cpm.command(**replaced), capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_second_cpm_on_the_same_state_is_refused(cpm):
    second = _try_to_start(cpm, socket=str(cpm.folder / "other.sock"))

    assert second.returncode == 1
    assert "another cpm uses the state folder" in second.stderr
    assert second.stdout == ""
    assert cpm.call("ping")["contract"] == 1


def test_second_cpm_on_the_same_socket_is_refused(cpm):
    second = _try_to_start(cpm, state=str(cpm.folder / "other"))

    assert second.returncode == 1
    assert "another process answers" in second.stderr
    assert cpm.call("ping")["contract"] == 1


def test_stale_socket_is_replaced_and_a_file_is_not(cpm):
    cpm.kill()
    assert cpm.socket.exists()
    cpm.start()
    assert cpm.call("ping")["contract"] == 1
    cpm.stop()
    cpm.socket.write_text("precious")

    refused = _try_to_start(cpm)

    assert refused.returncode == 1
    assert "is no socket" in refused.stderr
    assert cpm.socket.read_text() == "precious"


def test_damaged_state_refuses_to_start_and_stays_as_it_is(cpm):
    cpm.apply(sequence=1, keys={NAME: 1})
    cpm.stop()
    path = cpm.state / "state.sealed"
    damaged = path.read_bytes()[:-1] + b"\0"
    path.write_bytes(damaged)

    refused = _try_to_start(cpm)

    assert refused.returncode == 1
    assert "the sealed state was changed" in refused.stderr
    assert "hint:" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert path.read_bytes() == damaged


def test_settings_are_refused_all_at_once(cpm):
    (cpm.folder / "garbage").write_text("garbage")

    refused = _try_to_start(
        cpm,
        audience="has space",
        **{
            "device-id": "",
            "release-key": str(cpm.folder / "garbage"),
            "trust": str(cpm.folder / "missing"),
        },
    )

    assert refused.returncode == 2
    for option in ("--audience", "--device-id", "--release-key", "--trust"):
        assert option in refused.stderr


def test_socket_in_a_folder_of_everybody_is_refused(cpm):
    cpm.stop()
    folder = cpm.folder / "open"
    folder.mkdir()
    folder.chmod(0o1777)

    refused = _try_to_start(cpm, socket=str(folder / "cpm.sock"))

    assert refused.returncode == 1
    assert "not everybody may write" in refused.stderr


def test_modes_limits_and_secrets_on_disk(cpm):
    cpm.apply(sequence=1, keys={NAME: 1})
    cpm.install()

    assert cpm.socket.stat().st_mode & 0o777 == 0o660
    for path in cpm.state.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
        assert not path.is_file() or cpm.cloud.class_key().reveal() not in path.read_bytes()
        assert not path.is_file() or b'echo "running' not in path.read_bytes()
    limits = Path(f"/proc/{cpm.process.pid}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


def test_process_is_closed_to_debuggers_and_new_privileges_and_locks_its_memory(cpm):
    folder = Path(f"/proc/{cpm.process.pid}")
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())

    assert status["NoNewPrivs"] == "1"
    # What is not dumpable belongs to root, whoever runs it; its memory is for those with CAP_SYS_PTRACE.
    assert (folder / "mem").stat().st_uid == 0
    if os.geteuid() == 0:
        assert int(status["VmLck"].split()[0]) > 0
    else:
        assert "memory_lock" in cpm.log() or int(status["VmLck"].split()[0]) > 0


# ── clients good and bad ──────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _raw(cpm):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(SECONDS)
        sock.connect(str(cpm.socket))
        yield sock


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\0\x10\0\x01",
        b"\0\0\0\x01\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\x03\xa1\x01\x02",
    ],
)
def test_bad_frame_is_told_and_closed_and_the_next_client_is_served(cpm, data):
    with _raw(cpm) as sock:
        sock.sendall(data)
        reply = read_frame(sock).message
        assert (reply["ok"], reply["code"]) == (False, "malformed")
        with suppress(ConnectionResetError):  # it closed what it did not read
            assert read_frame(sock) is None

    assert cpm.call("ping")["contract"] == 1


def test_bad_request_is_told_and_the_connection_goes_on(cpm):
    with cpm.connect() as connection:
        for request in ({"op": "nonsense"}, {"op": "uninstall"}, {"op": "ping", "more": 1}):
            write_frame(connection._sock, request)
            assert read_frame(connection._sock).message["ok"] is False
        assert connection.call("ping")["contract"] == 1


def test_descriptors_that_were_not_asked_for_are_closed(cpm):
    """A pipe ends for its reader when the last copy of its other end is closed, the CPM's included."""
    read, write = os.pipe()
    with cpm.connect() as connection:
        for fds in ([write], [write] * 3):
            with pytest.raises(FormatError):
                connection.call("ping", fds=fds)
        with _raw(cpm) as sock:
            body = encode_cbor({"op": "ping"})
            socket.send_fds(sock, [len(body).to_bytes(4, "big") + body], [write] * 100)
            assert read_frame(sock).message["code"] == "malformed"
        os.close(write)

        assert select.select([read], [], [], SECONDS)[0] == [read]
        assert os.read(read, 1) == b""
        assert connection.call("ping")["contract"] == 1
    os.close(read)


def test_client_that_stalls_in_a_frame_holds_up_nobody(cpm):
    with _raw(cpm) as slow, _raw(cpm) as half_open:
        slow.sendall(b"\0\0\0\x09\xa1")
        half_open.sendall(b"\0")

        assert cpm.call("ping")["contract"] == 1


def test_running_workload_holds_up_nobody(cpm):
    cpm.apply(sequence=1, keys={NAME: 1})
    cpm.install(b"#!/bin/sh\necho started\ncat\n")
    client = subprocess.Popen(
        [CPM, "run", CP_ID, "--socket", cpm.socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert client.stdout.readline() == b"started\n"

    cpm.apply(sequence=2, keys={NAME: 2})
    cpm.install(b"#!/bin/sh\nexit 0\n", version=(2, 0, 0), key_version=2)
    cpm.call("uninstall", cp_id=CP_ID)

    out, _ = client.communicate(b"still there", timeout=SECONDS)
    assert (client.returncode, out) == (0, b"still there")


def test_idle_clients_give_way_to_new_ones(cpm):
    connections = [cpm.connect() for _ in range(64)]
    for connection in connections:
        connection.call("ping")

    assert cpm.call("ping")["contract"] == 1

    # Which of them was idle longest is a matter of the CPM's threads; that it was one, and one only, is not.
    closed = 0
    for connection in connections:
        try:
            assert connection.call("ping")["contract"] == 1
        except TransportError:
            closed += 1
        connection.close()
    assert closed == 1


def test_log_tells_each_operation_and_no_argument(cpm):
    cpm.apply(sequence=1, keys={NAME: 1})
    cpm.install()
    cpm.command_line("run", CP_ID, "--", "planted-argument")
    with pytest.raises(FormatError):
        cpm.call("uninstall", cp_id=7)
    cpm.stop()

    lines = [json.loads(line) for line in cpm.log().splitlines()]
    operations = [line for line in lines if line["event"] == "operation"]
    assert [(line["op"], line["outcome"], line["code"]) for line in operations] == [
        ("device_public_key", "ok", None),
        ("apply_release", "ok", None),
        ("install", "ok", None),
        ("run", "ok", None),
        ("unknown", "failed", "request_invalid"),
    ]
    assert all(line["peer_uid"] == os.getuid() and line["duration_ms"] >= 0 for line in operations)
    assert "planted-argument" not in cpm.log()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_other_user_is_refused_unless_it_is_allowed(cpm):
    for path in (cpm.folder, *cpm.folder.parents):
        if path.stat().st_uid == 0 and path != Path("/") and path.stat().st_mode & 0o005 != 0o005:
            path.chmod(path.stat().st_mode | 0o055)
    cpm.socket.chmod(0o666)  # past the socket's mode, to the uid check
    cpm.socket.parent.chmod(0o755)

    assert _ping_as(cpm, 12345) == "peer_denied"

    cpm.stop()
    cpm.options = ("--allow-uid", "12345")
    cpm.start()
    cpm.socket.chmod(0o666)
    assert _ping_as(cpm, 12345) == "ok"
    assert cpm.call("ping")["contract"] == 1


def _ping_as(cpm, uid):
    """Call from a child that gave up root; the channel's code is loaded before."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(uid)
        try:
            cpm.call("ping")
            answer = "ok"
        except PolicyDenied as error:
            answer = error.code
        except BaseException as error:  # noqa: BLE001 - told to the parent, which asserts
            answer = repr(error)
        os.write(write, answer.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        return pipe.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a workload another user")
def test_workload_runs_as_the_user_it_is_given_and_cannot_read_the_state(tmp_path):
    device = Cpm(folder=tmp_path, options=("--sandbox", "none", "--workload-uid", "65534"))
    device.start()
    try:
        device.apply(sequence=1, keys={NAME: 1})
        key = device.state / "device.key"
        device.install(f"#!/bin/sh\nid -u\ncat {key}\nexit 0\n".encode())
        ran = device.command_line("run", CP_ID)
        assert ran.stdout == b"65534\n"
        assert b"ermission denied" in ran.stderr
    finally:
        device.kill()
