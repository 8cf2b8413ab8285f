"""What cpk-tool leaves behind when something goes wrong: nothing."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from simulators.workshop import CPK_TOOL, make_workshop, tool, write_pair

DEADLINE_SECONDS = 120
SIZES = (64 << 20, 256 << 20, 1 << 30)
BEGUN = 8 << 20  # bytes: by then some of what was read is written, too


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    write_pair(folder, "sign")
    return folder


@pytest.fixture
def workshop(tmp_path, pki):
    workshop = make_workshop(tmp_path, pki)
    (tmp_path / "app.bin").write_bytes(os.urandom(3 << 20))
    return workshop


@pytest.fixture(scope="module")
def built(tmp_path_factory, pki):
    """Return a folder with a package and a prepared one, of 3 MiB each."""
    workshop = make_workshop(tmp_path_factory.mktemp("built"), pki)
    (workshop.folder / "app.bin").write_bytes(os.urandom(3 << 20))
    package, prepared = workshop.folder / "good.cpk", workshop.folder / "good.prepared"
    assert workshop.build("-o", package).returncode == 0
    prepare = ("-o", prepared, "--prepare", "--cert", pki / "sign.pem")
    assert workshop.build(*prepare, signed=False).returncode == 0
    return workshop.folder


@pytest.fixture
def commands(workshop, built):
    """The commands that write a file, each on inputs that are good."""
    keys, trust = workshop.folder / "keys.json", workshop.pki / "sign.pem"
    signing = ("--sign-key", workshop.pki / "sign.key", "--cert", workshop.pki / "sign.pem")
    package, prepared = workshop.folder / "good.cpk", workshop.folder / "good.prepared"
    shutil.copy(built / package.name, package)
    shutil.copy(built / prepared.name, prepared)
    build = ("build", "-i", workshop.folder / "app.bin", "-a", "my_app", "-k", keys, *signing)
    return {
        "build": build,
        "build-recommended": (*build, "--profile", "recommended"),
        "extract": ("extract", package, "-k", keys, "--trust", trust),
        "rewrap": ("rewrap", package, "-k", keys, "--to-key-name", "other", "--trust", trust, *signing),
        "sign": ("sign", prepared, *signing[:2]),
        "digest": ("digest", prepared),
    }


COMMANDS = ["build", "build-recommended", "extract", "rewrap", "sign", "digest"]
STREAMING = [name for name in COMMANDS if name != "digest"]


@pytest.mark.parametrize("name", STREAMING)
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(workshop, commands, name):
    out = workshop.folder / "out"
    before = workshop.names()

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    ran = subprocess.run(
        [str(CPK_TOOL), *map(str, commands[name]), "-o", str(out)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )

    assert ran.returncode == 1
    errors = [line for line in ran.stderr.splitlines() if "warning" not in line]
    assert errors == [f"cpk-tool: error: cannot write {out}: File too large"]
    assert workshop.names() == before


def in_small_file_system(folder, command):
    """Run a command while a file system of 1 MiB lies on a folder; list what is left there."""
    script = 'mount -t tmpfs -o size=1m none "$0" && { "$@"; status=$?; ls -A "$0"; exit $status; }'
    ran = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, *map(str, (folder, *command))],
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize("name", STREAMING)
def test_a_file_system_without_room_is_one_clear_error_and_leaves_nothing(workshop, commands, name):
    disk = workshop.folder / "disk"
    disk.mkdir()
    if in_small_file_system(disk, ("true",))[0]:
        pytest.skip("file systems cannot be mounted here")

    status, left, errors = in_small_file_system(disk, (CPK_TOOL, *commands[name], "-o", disk / "out"))

    assert status == 1
    told = [line for line in errors.splitlines() if "warning" not in line]
    assert told == [f"cpk-tool: error: cannot write {disk / 'out'}: No space left on device"]
    assert left == ""


def injected(call, command):
    """Run a command whose system calls of a kind fail, the disk being full."""
    inject = ("strace", "-f", "-qq", "-o", os.devnull, "-e", f"inject={call}:error=ENOSPC")
    return subprocess.run([*inject, *map(str, command)], capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("build", "fsync"),
        ("build", "rename"),
        ("extract", "fsync"),
        ("extract", "linkat"),
        ("extract", "rename"),
    ],
)
def test_a_disk_that_is_full_at_the_very_end_leaves_nothing(workshop, commands, name, call):
    if injected("fsync", ("true",)).returncode:
        pytest.skip("processes cannot be traced here")
    before = workshop.names()

    ran = injected(call, (CPK_TOOL, *commands[name], "-o", workshop.folder / "out"))

    assert ran.returncode == 1, ran.stderr
    assert f"error: cannot write {workshop.folder / 'out'}: No space left on device" in ran.stderr
    assert workshop.names() == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_cannot_be_written_is_one_clear_error(workshop, commands, name):
    ran = tool(*commands[name], "-o", "/nonexistent/out")

    assert ran.returncode == 1
    assert "cpk-tool: error: cannot write /nonexistent/out: No such file or directory\n" in ran.stderr


@pytest.mark.parametrize("name", ["extract", "rewrap", "sign", "digest"])
@pytest.mark.parametrize("kept", [0, 15, 100, 3 << 20])
def test_a_truncated_package_is_malformed_and_leaves_nothing(workshop, commands, name, kept):
    os.truncate(commands[name][1], kept)
    before = workshop.names()

    ran = tool(*commands[name], "-o", workshop.folder / "out")

    assert ran.returncode == 1
    assert ran.stderr.count("error:") == 1
    assert workshop.names() == before


@pytest.mark.parametrize("name", ["extract", "rewrap"])
def test_a_package_that_was_changed_is_refused_and_leaves_nothing(workshop, commands, name):
    package = commands[name][1]
    with package.open("r+b") as file:
        file.seek(2 << 20)
        changed = bytes([file.read(1)[0] ^ 1])
        file.seek(2 << 20)
        file.write(changed)
    before = workshop.names()

    ran = tool(*commands[name], "-o", workshop.folder / "out", "--json")

    assert ran.returncode == 3
    assert json.loads(ran.stdout)["code"] == "tag_mismatch"
    assert workshop.names() == before


def stopped_amid(command, path):
    """Start a command and stop it while it reads a file.

    Returns:
        The process; ``None`` if it was through before the stop arrived.
    """
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    amid = range(BEGUN, path.stat().st_size - BEGUN)
    while process.poll() is None and place_in(path, process.pid) not in amid:
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    if place_in(path, process.pid) in amid:
        return process
    process.kill()
    process.communicate()
    return None


def place_in(path, pid):
    """Return how far a process has read a file that it has open; 0 if it has not."""
    with contextlib.suppress(FileNotFoundError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if link.readlink() == path:
                told = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
                return int(told.split("\n", 1)[0].removeprefix("pos:"))
    return 0


@pytest.fixture
def stopped(workshop):
    """Return what starts a command on a large file and stops it amid that; it is ended with the test.

    A machine may be so fast, or give this process a turn so late, that a file is through before the stop:
    then the command is started again on a larger one.
    """
    running = []

    def start(command, path, make):
        for size in SIZES:
            make(path, size)
            process = stopped_amid(command, path)
            if process is not None:
                running.append(process)
                return process
            (workshop.folder / "out").unlink(missing_ok=True)
        return pytest.fail(f"{path} was never caught amid")

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def stopped_build(workshop, stopped):
    """Return what starts a build into ``out`` and stops it amid its payload."""

    def start(*more):
        payload, out = workshop.folder / "large.bin", workshop.folder / "out"
        build = (CPK_TOOL, "build", "-i", payload, "-o", out, "-a", "my_app")
        return stopped((*build, "-k", workshop.folder / "keys.json", *more), payload, make_sparse), payload

    return start


def make_sparse(path, size):
    path.touch()
    os.truncate(path, size)


def ended(process):
    """Let a stopped process go on, and return its exit status and what it said."""
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    return process.returncode, errors


@pytest.mark.parametrize("profile", ["reference", "recommended"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _size: 0, "it ends after"),
        (lambda size: size - 1, "it ends after"),
        (lambda size: size + 1, "it grew while it was read"),
    ],
    ids=["emptied", "shortened", "grown"],
)
def test_a_payload_that_changes_its_size_while_it_is_read_leaves_nothing(
    workshop, stopped_build, profile, change, message
):
    process, payload = stopped_build("--profile", profile)
    os.truncate(payload, change(payload.stat().st_size))

    status, errors = ended(process)

    assert status == 1
    assert message in errors
    assert workshop.names() == ["app.bin", "keys.json", "large.bin"]


def test_a_payload_that_is_written_to_while_it_is_read_leaves_nothing(workshop, stopped_build):
    process, payload = stopped_build()
    with payload.open("r+b") as file:
        file.write(b"changed")

    status, errors = ended(process)

    assert status == 1
    assert "it was written to while it was read" in errors
    assert workshop.names() == ["app.bin", "keys.json", "large.bin"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_build_leaves_nothing(workshop, stopped_build, number):
    process, _ = stopped_build("--profile", "recommended")
    process.send_signal(number)

    status, errors = ended(process)

    assert status == (130 if number == signal.SIGINT else 128 + number)
    assert "Traceback" not in errors
    assert workshop.names() == ["app.bin", "keys.json", "large.bin"]


def test_a_reader_that_goes_away_is_no_traceback(workshop):
    ran = subprocess.run(
        ["bash", "-c", f"{CPK_TOOL} build --help | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "Traceback" not in ran.stderr


CLEAR = b"these sixty-four bytes of the payload are not to be seen on disk"


@pytest.fixture
def make_package(workshop):
    """Return what makes a package of about a size, its payload the same text again and again."""

    def make(path, size):
        payload = workshop.folder / "clear.bin"
        payload.write_bytes(CLEAR * (size // len(CLEAR)))
        assert workshop.build("-o", path, payload=payload).returncode == 0
        payload.unlink()

    return make


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_extract_leaves_no_clear_byte(workshop, commands, stopped, make_package, number):
    """The clear payload has no name until everything held, so even a kill leaves no part of it."""
    package, before = workshop.folder / "large.cpk", workshop.names()
    extract = ("extract", package, *commands["extract"][2:], "-o", workshop.folder / "out")
    process = stopped((CPK_TOOL, *extract), package, make_package)
    assert [name for name, data in written_by(process.pid) if CLEAR in data and not name.exists()]
    process.send_signal(number)

    ended(process)

    assert workshop.names() == sorted([*before, "large.cpk"])


def test_rewrapping_has_no_clear_byte_in_any_file(workshop, commands, stopped, make_package):
    package = workshop.folder / "large.cpk"
    rewrap = ("rewrap", package, *commands["rewrap"][2:], "-o", workshop.folder / "out")
    process = stopped((CPK_TOOL, *rewrap), package, make_package)

    written = written_by(process.pid)

    assert any(data for _, data in written)
    assert [name for name, data in written if CLEAR in data] == []
    assert ended(process)[0] == 0
    assert CLEAR not in (workshop.folder / "out").read_bytes()


def written_by(pid):
    """Return name and content of every regular file that a process has open for writing."""
    written = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        flags = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split("flags:", 1)[1].split(None, 1)[0]
        if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY and link.is_file():
            written.append((link.readlink(), link.read_bytes()))
    return written
