"""Workloads of a CPM in a process of its own: sandboxed by default, restarted, limited, and streamed."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from simulators.cpm_process import CPM, SECONDS, Cpm
from simulators.releasing_cloud import CP_ID, NAME

from cpm.sandbox import Bubblewrap, Landlock
from shared.errors import FormatError, NotFound, PolicyDenied, StorageError

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = os.urandom(3 << 20) + b"the end"
WORKING = [sandbox.choice.value for sandbox in (Bubblewrap(), Landlock()) if sandbox.why_not() is None]


@pytest.fixture
def start(tmp_path):
    """Start a CPM with options, a release applied."""
    started = []

    def start(*options):
        device = Cpm(folder=tmp_path, options=options)
        device.start()
        started.append(device)
        device.apply(sequence=1, keys={NAME: 1})
        return device

    yield start
    for device in started:
        if device.process.poll() is None:
            device.kill()


# ── the sandbox ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not WORKING, reason="no sandbox works here")
def test_by_default_the_strongest_sandbox_is_taken_and_told(start):
    cpm = start()

    assert cpm.call("status")["sandbox"] == WORKING[0]
    assert f"sandbox   {WORKING[0]}\n" in cpm.command_line("status").stdout.decode()
    (ready,) = [line for line in map(json.loads, cpm.log().splitlines()) if line["event"] == "ready"]
    assert ready["sandbox"] == WORKING[0]


@pytest.mark.parametrize("sandbox", ["none", *WORKING])
def test_state_folder_is_open_to_workloads_without_a_sandbox_only(start, sandbox):
    cpm = start("--sandbox", sandbox)
    key = next(path for path in cpm.state.iterdir() if path.name.startswith("device"))
    cpm.install(
        f"#!/bin/sh\ncat {key} >/dev/null && echo read\nls {cpm.state} && echo seen\nexit 0\n".encode()
    )

    told = cpm.command_line("run", CP_ID).stdout.decode()

    assert ("read" in told) is (sandbox == "none")
    assert ("seen" in told) is (sandbox == "none")


@pytest.mark.skipif(not WORKING, reason="no sandbox works here")
def test_limits_of_the_command_line_reach_the_workload(start):
    cpm = start("--memory", "512M", "--cpu-seconds", "60", "--open-files", "40", "--processes", "400")
    cpm.install(b"#!/bin/bash\nulimit -v; ulimit -t; ulimit -n; ulimit -u\n")

    assert cpm.command_line("run", CP_ID).stdout.split() == [b"524288", b"60", b"40", b"400"]


# ── restarts ──────────────────────────────────────────────────────────────────────────────────────────────


def test_failed_workload_is_run_again_as_often_as_asked_with_empty_input(start):
    cpm = start()
    cpm.install(b"#!/bin/sh\necho run\ncat\nexit 5\n")

    ran = cpm.command_line("run", "--restart", "on-failure:2", "--backoff", "0", CP_ID, stdin=b"once\n")

    assert (ran.returncode, ran.stdout) == (5, b"run\nonce\nrun\nrun\n")
    assert ran.stderr.decode() == "cpm: status 5, restart in 0 s\n" * 2


def test_workload_that_ends_well_is_not_run_again(start):
    cpm = start()
    cpm.install(b"#!/bin/sh\necho run\n")

    ran = cpm.command_line("run", "--restart", "on-failure", CP_ID)

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"run\n", b"")


def test_workload_is_restarted_until_it_ends_well_and_as_the_version_installed_by_then(start):
    cpm = start()
    cpm.install(b"#!/bin/sh\necho first\ncat\nexit 1\n")
    client = subprocess.Popen(
        [CPM, "run", "--restart", "on-failure", "--backoff", "0", CP_ID, "--socket", cpm.socket],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert client.stdout.readline() == b"first\n"
    cpm.install(b"#!/bin/sh\necho second\n", version=(2, 0, 0))

    out, _ = client.communicate(timeout=SECONDS)

    assert (client.returncode, out) == (0, b"second\n")


def test_restarting_ends_with_the_cpm(start):
    cpm = start()
    cpm.install(b"#!/bin/sh\necho started\nexec sleep 600\n")
    client = subprocess.Popen(
        [CPM, "run", "--restart", "on-failure", "--backoff", "0", CP_ID, "--socket", cpm.socket],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert client.stdout.readline() == b"started\n"

    cpm.kill()

    _, errors = client.communicate(timeout=SECONDS)
    assert client.returncode == 1
    assert b"cpm: error:" in errors


# ── streams ───────────────────────────────────────────────────────────────────────────────────────────────


def test_payload_is_poured_into_a_pipe(start):
    cpm = start("--allow-stream", CP_ID)
    cpm.install(MODEL)

    ran = cpm.command_line("run", "--stream", CP_ID)

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout == MODEL


def test_confidential_onnx_model_is_run_from_a_pipe(start):
    cpm = start("--allow-stream", CP_ID)
    cpm.install((EXAMPLES / "onnx_classifier" / "model" / "digits.onnx").read_bytes())
    images = EXAMPLES / "confidential_ml" / "data" / "held_out.jsonl"
    with subprocess.Popen(
        [CPM, "run", "--stream", CP_ID, "--socket", cpm.socket], stdout=subprocess.PIPE
    ) as client:
        ran = subprocess.run(
            [sys.executable, EXAMPLES / "onnx_classifier" / "run_onnx.py", images, "--quiet"],
            stdin=client.stdout,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    assert (client.returncode, ran.returncode) == (0, 0), ran.stderr
    found = re.fullmatch(r"accuracy on 450 images: ([0-9.]+)\n", ran.stderr)
    assert float(found[1]) >= 0.95


def test_payload_goes_to_nobody_unless_the_device_allows_it(start):
    cpm = start("--allow-stream", "another-app")
    cpm.install(MODEL)

    ran = cpm.command_line("run", "--stream", CP_ID)

    assert (ran.returncode, ran.stdout) == (3, b"")
    assert b"gives its payload to nobody" in ran.stderr
    read, write = os.pipe()
    with pytest.raises(PolicyDenied) as denied:
        cpm.call("stream", fds=[write], cp_id=CP_ID)
    assert denied.value.code == "stream_denied"
    os.close(read)
    os.close(write)


def test_payload_goes_into_no_file_terminal_or_connection_elsewhere(start, tmp_path):
    cpm = start("--allow-stream", CP_ID)
    cpm.install(MODEL)
    file = os.open(tmp_path / "clear", os.O_RDWR | os.O_CREAT)
    terminal_end, terminal = os.openpty()
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_WRONLY)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as tcp,
    ):
        for fd in (file, terminal, read, null, tcp.fileno(), server.fileno()):
            with pytest.raises(FormatError) as refused:
                cpm.call("stream", fds=[fd], cp_id=CP_ID)
            assert refused.value.code == "request_invalid"
    assert (tmp_path / "clear").stat().st_size == 0
    for fd in (file, terminal_end, terminal, read, write, null):
        os.close(fd)

    redirected = subprocess.run(
        f"{CPM} run --stream {CP_ID} --socket {cpm.socket} > {tmp_path / 'clear'}",
        shell=True,
        capture_output=True,
        check=False,
        timeout=SECONDS,
    )
    assert redirected.returncode == 1
    assert b"hint: pipe the output" in redirected.stderr
    assert (tmp_path / "clear").stat().st_size == 0


def test_payload_is_poured_into_a_unix_socket(start):
    cpm = start("--allow-stream", CP_ID)
    cpm.install(MODEL)
    ours, theirs = socket.socketpair()
    told = []
    with ours:
        with theirs:
            thread = threading.Thread(
                target=lambda: told.append(cpm.call("stream", fds=[theirs.fileno()], cp_id=CP_ID))
            )
            thread.start()
            found = bytearray()
            while len(found) < len(MODEL):
                found += ours.recv(1 << 16)
            thread.join(SECONDS)
        assert ours.recv(1) == b""
    assert bytes(found) == MODEL
    assert told == [{"bytes": len(MODEL)}]


def test_reader_that_goes_away_ends_the_stream(start):
    cpm = start("--allow-stream", CP_ID)
    cpm.install(MODEL)
    client = subprocess.Popen(
        [CPM, "run", "--stream", CP_ID, "--socket", cpm.socket],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert client.stdout.read(10) == MODEL[:10]

    client.stdout.close()

    assert client.wait(SECONDS) == 1
    assert b"the reader went away after" in client.stderr.read()
    client.stderr.close()
    assert cpm.call("ping")["contract"] == 1


def test_client_that_goes_away_ends_the_stream_though_nobody_reads(start):
    cpm = start("--allow-stream", CP_ID)
    cpm.install(MODEL)
    read, write = os.pipe()
    client = subprocess.Popen([CPM, "run", "--stream", CP_ID, "--socket", cpm.socket], stdout=write)
    os.close(write)
    found = len(os.read(read, 1))

    client.kill()
    client.wait(SECONDS)

    while part := os.read(read, 1 << 16):  # it ends: the CPM has let go of the pipe
        found += len(part)
    os.close(read)
    assert 0 < found < len(MODEL)


def test_damaged_segment_is_not_written(start):
    cpm = start("--allow-stream", CP_ID)
    cpm.install(MODEL)
    (sealed,) = (cpm.state / "packages").iterdir()
    damaged = bytearray(sealed.read_bytes())
    damaged[(1 << 20) + 500] ^= 1  # in the second segment
    sealed.write_bytes(damaged)

    ran = cpm.command_line("run", "--stream", CP_ID)

    assert ran.returncode == 1
    assert b"segment 1 does not open" in ran.stderr
    assert ran.stdout == MODEL[: 1 << 20]
    read, write = os.pipe()
    threading.Thread(target=lambda: os.read(read, 1 << 21) and _drain(read)).start()
    with pytest.raises(StorageError):
        cpm.call("stream", fds=[write], cp_id=CP_ID)
    os.close(write)


def _drain(fd):
    while os.read(fd, 1 << 16):
        pass
    os.close(fd)


def test_package_that_is_not_installed_is_not_streamed(start):
    cpm = start("--allow-stream", "missing")
    read, write = os.pipe()

    with pytest.raises(NotFound):
        cpm.call("stream", fds=[write], cp_id="missing")

    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "app", "--stream", "--restart", "on-failure"],
        ["run", "app", "--restart", "always"],
        ["run", "app", "--restart", "on-failure:0"],
        ["run", "app", "--backoff", "-1"],
        ["run", "app", "--backoff", "nan"],
        ["run", "app", "--backoff", "61"],
        ["serve", "--sandbox", "chroot"],
        ["serve", "--memory", "1T"],
        ["serve", "--memory", "0"],
        ["serve", "--processes", "many"],
        ["serve", "--cpu-seconds", "0"],
    ],
)
def test_wrong_words_are_wrong_usage(words):
    ran = subprocess.run([sys.executable, "-m", "cpm.main", *words], capture_output=True, check=False)

    assert ran.returncode == 2
    assert f"usage: cpm {words[0]}".encode() in ran.stderr
    assert f"argument {words[-2]}: ".encode() in ran.stderr
