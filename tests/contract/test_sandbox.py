"""What every sandbox keeps from a workload, and what it leaves it, shown by workloads that try."""

import json
import os
import socket
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cpm import workload
from cpm.sandbox import Bubblewrap, Landlock, Sandbox, SandboxChoice, Unconfined, find_sandbox
from shared.errors import EdbError

PYTHON = "/usr/bin/python3"
NOBODY = 65534

SANDBOXES = [Bubblewrap(), Landlock()]

needs_python = pytest.mark.skipif(not Path(PYTHON).exists(), reason="the system has no Python for workloads")


def _names(sandbox):
    return sandbox.choice.value


@pytest.fixture(params=SANDBOXES, ids=_names)
def sandbox(request):
    reason = request.param.why_not()
    if reason is not None:
        pytest.skip(reason)
    return request.param


@dataclass
class Bench:
    """Runs payloads in a sandbox."""

    sandbox: Sandbox
    folder: Path
    rules: dict = field(default_factory=dict)

    def run(self, payload: bytes, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        paths = [self.folder / name for name in ("in", "out", "err")]
        paths[0].write_bytes(stdin)
        modes = (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_TRUNC] * 2)
        fds = [os.open(path, mode, 0o600) for path, mode in zip(paths, modes, strict=True)]
        ours, theirs = socket.socketpair()
        try:
            status = workload.run(
                workload.load_payload([payload]),
                workload.Launch(
                    cp_id="app",
                    version="1.2.3",
                    arguments=arguments,
                    stdio=tuple(fds),
                    rules=workload.Rules(sandbox=self.sandbox, **self.rules),
                ),
                client=theirs.fileno(),
            )
        finally:
            ours.close()
            theirs.close()
            for fd in fds:
                os.close(fd)
        return status, paths[1].read_text(), paths[2].read_text()

    def python(self, code: str, *arguments: str) -> dict:
        """Run Python that sets ``told``; an attempt in it is ``tell(name, function, *arguments)``."""
        head = (
            "import errno, json, os, signal, socket, sys\n"
            "told = {}\n"
            "def tell(name, attempt, *arguments):\n"
            "    try:\n        told[name] = attempt(*arguments)\n"
            "    except OSError as error:\n        told[name] = errno.errorcode[error.errno]\n"
        )
        text = f"#!{PYTHON} -I\n{head}{code}\nprint(json.dumps(told, default=str))\n"
        status, out, err = self.run(text.encode(), *arguments)
        assert status == 0, err
        return json.loads(out)


@pytest.fixture
def bench(sandbox, tmp_path):
    return Bench(sandbox=sandbox, folder=tmp_path)


# ── what it leaves ────────────────────────────────────────────────────────────────────────────────────────


def test_script_has_its_streams_arguments_environment_and_status(bench):
    script = b'#!/bin/sh\necho "$CP_ID $CP_VERSION $* in $PWD"\ncat\necho told >&2\nexit 7\n'

    assert bench.run(script, "one", "two words", stdin=b"read") == (
        7,
        "app 1.2.3 one two words in /\nread",
        "told\n",
    )


def test_binary_runs(bench):
    assert bench.run(Path("/bin/cat").read_bytes(), stdin=b"through") == (0, "through", "")


@needs_python
def test_python_zip_application_runs(bench, tmp_path):
    with (tmp_path / "app.pyz").open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("__main__.py", "import part, sys\nprint(part.NAME, sys.stdin.read())\n")
            archive.writestr("part.py", "NAME = 'inside'\n")

    status, out, err = bench.run((tmp_path / "app.pyz").read_bytes(), stdin=b"text")
    assert (status, out, err) == (0, "inside text\n", "")


def test_signal_that_ends_it_is_its_status(bench):
    assert bench.run(b"#!/bin/sh\nkill -TERM $$\n")[0] == 128 + 15


@pytest.mark.parametrize("payload", [b"", b"junk\n", b"\x7fEL"])
def test_payload_that_is_no_program_ends_with_126(bench, payload):
    status, out, err = bench.run(payload)

    assert (status, out) == (126, "")
    assert err.startswith("cpm: the payload does not start: ")


# ── what it keeps ─────────────────────────────────────────────────────────────────────────────────────────


@needs_python
def test_files_outside_the_systems_programs_cannot_be_opened(bench, tmp_path):
    secret = tmp_path / "state" / "device.key"
    secret.parent.mkdir()
    secret.write_text("a key")

    told = bench.python(
        "tell('state', lambda: open(sys.argv[1]).read())\n"
        "tell('folder', lambda: os.listdir(os.path.dirname(sys.argv[1])))\n"
        "for path in ('/etc/passwd', '/etc/hosts', '/root', '/home', '/run', '/sys/kernel', '/dev/kmsg'):\n"
        "    tell(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path).read())\n",
        str(secret),
    )

    assert set(told.values()) <= {"ENOENT", "EACCES"}, told
    assert len(told) == 9


@needs_python
def test_nothing_outside_can_be_written(bench, tmp_path):
    told = bench.python(
        "for folder in ('/', '/usr', '/etc', '/dev', '/var/tmp', sys.argv[1]):\n"
        "    tell(folder, lambda: open(folder + '/planted', 'w'))\n",
        str(tmp_path),
    )

    assert set(told.values()) <= {"ENOENT", "EACCES", "EROFS"}, told


@needs_python
def test_what_it_writes_into_tmp_reaches_nobody(bench):
    name = f"planted-{os.getpid()}"

    told = bench.python("tell('tmp', lambda: open('/tmp/' + sys.argv[1], 'w').write('x'))", name)

    assert told["tmp"] == (1 if bench.sandbox.choice is SandboxChoice.BUBBLEWRAP else "EACCES")
    assert not (Path("/tmp") / name).exists()


@needs_python
def test_unix_socket_of_the_cpm_cannot_be_reached(bench, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as abstract:
        listener.bind(str(tmp_path / "cpm.sock"))
        listener.listen()
        abstract.bind(f"\0cpm-{os.getpid()}")
        abstract.listen()
        told = bench.python(
            "for name in (sys.argv[1], '\\0' + sys.argv[2]):\n"
            "    tell(name, lambda: socket.socket(socket.AF_UNIX).connect(name))\n",
            str(tmp_path / "cpm.sock"),
            f"cpm-{os.getpid()}",
        )

    assert set(told.values()) <= {"ENOENT", "EPERM", "ECONNREFUSED"}, told


@needs_python
@pytest.mark.parametrize("allowed", [False, True])
def test_network_is_for_those_that_the_device_allows(bench, allowed):
    bench.rules["network_for"] = frozenset({"app"} if allowed else {"other"})
    with socket.create_server(("127.0.0.1", 0)) as server:
        told = bench.python(
            "port = int(sys.argv[1])\n"
            "tell('tcp', lambda: socket.create_connection(('127.0.0.1', port), 30).close())\n"
            "tell('udp', lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9)))\n"
            "tell('hosts', lambda: len(open('/etc/hosts').read()) > 0)\n",
            str(server.getsockname()[1]),
        )

    if allowed:
        assert told["tcp"] is None
        assert told["hosts"] is True
    else:
        assert told["tcp"] in {"ECONNREFUSED", "EPERM"}
        assert told["udp"] in {"ENETUNREACH", "EPERM"}
        assert told["hosts"] in {"ENOENT", "EACCES"}


@needs_python
def test_even_with_the_network_unix_sockets_outside_are_out_of_reach(bench, tmp_path):
    bench.rules["network_for"] = frozenset({"app"})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "cpm.sock"))
        listener.listen()
        told = bench.python(
            "tell('cpm', lambda: socket.socket(socket.AF_UNIX).connect(sys.argv[1]))",
            str(tmp_path / "cpm.sock"),
        )

    assert told["cpm"] in {"ENOENT", "EPERM"}


@needs_python
@pytest.mark.parametrize("network", [frozenset(), frozenset({"app"})])
def test_pair_of_sockets_works_and_is_no_way_out(bench, tmp_path, network):
    bench.rules["network_for"] = network
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log, socket.socket(socket.AF_UNIX) as listener:
        log.bind(str(tmp_path / "log"))
        listener.bind(str(tmp_path / "cpm.sock"))
        listener.listen()
        told = bench.python(
            "import asyncio\n"
            "tell('asyncio', lambda: asyncio.run(asyncio.sleep(0, 'ran')))\n"
            "def escape():\n"
            "    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "    return ours.sendto(b'x', sys.argv[1])\n"
            "tell('datagram', escape)\n"
            "pair = socket.socketpair()\n"
            "pair[1].close()\n"
            "tell('stream', lambda: pair[0].connect(sys.argv[2]))\n",
            str(tmp_path / "log"),
            str(tmp_path / "cpm.sock"),
        )

    assert told["asyncio"] == "ran"
    assert told["datagram"] in {"ENOENT", "EPERM"}
    assert told["stream"] in {"EISCONN", "ENOENT"}


@needs_python
def test_other_processes_cannot_be_signalled_or_looked_into(bench):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        told = bench.python(
            "pid = int(sys.argv[1])\n"
            "tell('kill', os.kill, pid, signal.SIGKILL)\n"
            "for name in ('mem', 'environ', 'maps', 'cmdline'):\n"
            "    tell(name, lambda: open(f'/proc/{pid}/{name}', 'rb').read(1))\n",
            str(other.pid),
        )
        assert other.poll() is None
    finally:
        other.communicate(b"\n")

    assert told["kill"] in {"ESRCH", "EPERM"}
    assert set(told.values()) <= {"ESRCH", "EPERM", "ENOENT", "EACCES"}, told


@needs_python
def test_io_uring_which_makes_sockets_past_a_filter_is_of_no_use(bench):
    if bench.sandbox.choice is SandboxChoice.BUBBLEWRAP:
        pytest.skip("its sockets are in an empty network namespace, however they are made")

    told = bench.python(
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "told['made'] = libc.syscall(425, 1, ctypes.create_string_buffer(120))\n"
        "told['why'] = errno.errorcode[ctypes.get_errno()]\n"
    )

    assert told == {"made": -1, "why": "EPERM"}


@needs_python
def test_payload_cannot_be_changed(bench):
    told = bench.python(
        "fd = next(fd for fd in range(3, 64) if os.path.exists(f'/proc/self/fd/{fd}')\n"
        "          and 'payload' in os.readlink(f'/proc/self/fd/{fd}'))\n"
        "tell('write', os.write, fd, b'x')\n"
    )

    assert told["write"] == "EPERM"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a workload another user")
def test_it_works_for_another_user_too(bench):
    bench.rules["uid"] = NOBODY

    status, out, err = bench.run(b"#!/bin/sh\nid -u\n")

    assert (status, out, err) == (0, f"{NOBODY}\n", "")


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────


def test_limits_are_set_and_cannot_be_raised(bench):
    bench.rules["limits"] = workload.Limits(memory=1 << 30, cpu_seconds=50, processes=77, open_files=33)

    status, out, err = bench.run(
        b"#!/bin/bash\nulimit -v; ulimit -t; ulimit -u; ulimit -n; ulimit -c\nulimit -n 34 || exit 9\n"
    )

    # Where the system's own hard limit is lower, that one stays.
    assert out.split() == ["1048576", "50", "77", "33", "0"]
    assert status == 9 or os.geteuid() == 0, err


@needs_python
def test_memory_beyond_the_limit_is_refused(bench):
    bench.rules["limits"] = workload.Limits(memory=256 << 20)

    told = bench.python(
        "try:\n    bytearray(1 << 30)\n    told['got'] = True\nexcept MemoryError:\n    told['got'] = False\n"
    )

    assert told == {"got": False}


def test_endless_loop_ends_when_its_processor_time_is_used_up(bench):
    bench.rules["limits"] = workload.Limits(cpu_seconds=1)

    assert bench.run(b"#!/bin/sh\nwhile :; do :; done\n")[0] == 128 + 24


# ── choosing ──────────────────────────────────────────────────────────────────────────────────────────────


def test_auto_takes_the_strongest_that_works():
    working = [sandbox.choice for sandbox in SANDBOXES if sandbox.why_not() is None]
    if not working:
        pytest.skip("no sandbox works here")

    assert find_sandbox(SandboxChoice.AUTO).choice is working[0]
    assert {find_sandbox(choice).choice for choice in working} == set(working)


def test_without_any_sandbox_auto_refuses_and_only_none_runs_unconfined(monkeypatch):
    monkeypatch.setattr("cpm.sandbox.PROGRAMS_PATH", "/nowhere")
    monkeypatch.setattr("cpm.landlock._ARCHITECTURES", {})

    for choice in (SandboxChoice.AUTO, SandboxChoice.BUBBLEWRAP, SandboxChoice.LANDLOCK):
        with pytest.raises(EdbError) as refused:
            find_sandbox(choice)
        assert refused.value.code == "sandbox_unavailable"
        assert str(refused.value).startswith(f"--sandbox {choice.value}: ")
    assert isinstance(find_sandbox(SandboxChoice.NONE), Unconfined)


@pytest.mark.skipif(Landlock().why_not() is not None, reason="no Landlock here")
def test_bubblewrap_that_is_there_and_does_not_work_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: no namespace for you' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setattr("cpm.sandbox.PROGRAMS_PATH", str(tmp_path))

    assert find_sandbox(SandboxChoice.AUTO).choice is SandboxChoice.LANDLOCK
    with pytest.raises(EdbError, match="no namespace for you"):
        find_sandbox(SandboxChoice.BUBBLEWRAP)
