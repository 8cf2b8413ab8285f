"""What cpk-tool leaves behind when something goes wrong: nothing."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from simulators.workshop import CPK_TOOL, make_workshop, tool, write_pair

DEADLINE_SECONDS = 30
LARGE = 16 << 30


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


@pytest.fixture
def commands(workshop):
    """The commands that write a file, each on inputs that are good."""
    keys, trust = workshop.folder / "keys.json", workshop.pki / "sign.pem"
    signing = ("--sign-key", workshop.pki / "sign.key", "--cert", workshop.pki / "sign.pem")
    package, prepared = workshop.folder / "good.cpk", workshop.folder / "good.prepared"
    assert workshop.build("-o", package).returncode == 0
    assert workshop.build("-o", prepared, "--prepare", "--cert", signing[3], signed=False).returncode == 0
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


def started(workshop, payload, *more):
    """Start a build and wait until it writes; return the process."""
    command = [CPK_TOOL, "build", "-i", payload, "-o", workshop.package, "-a", "my_app", "-k"]
    process = subprocess.Popen(
        [*map(str, command), str(workshop.folder / "keys.json"), *map(str, more)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not any(part.stat().st_size for part in parts(workshop.folder)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


def parts(folder):
    with contextlib.suppress(FileNotFoundError):
        yield from folder.glob(".cpk-*.part")


@pytest.fixture
def large(workshop):
    payload = workshop.folder / "large.bin"
    payload.touch()
    os.truncate(payload, LARGE)
    return payload


@pytest.mark.parametrize("profile", ["reference", "recommended"])
@pytest.mark.parametrize(
    ("change", "message"),
    [(-LARGE, "it ends after"), (-1, "it ends after"), (1, "it grew while it was read")],
)
def test_a_payload_that_changes_its_size_while_it_is_read_leaves_nothing(
    workshop, large, profile, change, message
):
    before = workshop.names()
    size = 1 << 30
    os.truncate(large, size)
    process = started(workshop, large, "--profile", profile)
    os.truncate(large, max(size + change, 0))

    _, errors = process.communicate(timeout=120)

    assert process.returncode == 1
    assert message in errors
    assert workshop.names() == before


def test_a_payload_that_is_written_to_while_it_is_read_leaves_nothing(workshop, large):
    before = workshop.names()
    os.truncate(large, 1 << 30)
    process = started(workshop, large)
    with large.open("r+b") as file:
        file.write(b"changed")

    _, errors = process.communicate(timeout=120)

    assert process.returncode == 1
    assert "it was written to while it was read" in errors
    assert workshop.names() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_build_leaves_nothing(workshop, large, number):
    before = workshop.names()
    process = started(workshop, large, "--profile", "recommended")

    process.send_signal(number)
    _, errors = process.communicate(timeout=DEADLINE_SECONDS)

    assert process.returncode == (130 if number == signal.SIGINT else 128 + number)
    assert "Traceback" not in errors
    assert workshop.names() == before


def test_a_reader_that_goes_away_is_no_traceback(workshop):
    ran = subprocess.run(
        ["bash", "-c", f"{CPK_TOOL} build --help | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_extract_leaves_no_clear_byte(workshop, commands, number):
    """The clear payload has no name until everything held, so even a kill leaves no part of it."""
    slow = workshop.folder / "slow.cpk"
    payload = workshop.folder / "large.bin"
    payload.touch()
    os.truncate(payload, 1 << 30)
    assert workshop.build("-o", slow, payload=payload).returncode == 0
    before = workshop.names()
    extract = ("extract", slow, *commands["extract"][2:], "-o", workshop.folder / "out")
    process = subprocess.Popen([str(CPK_TOOL), *map(str, extract)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not writes_nameless_file(process.pid):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)

    process.send_signal(number)
    process.communicate(timeout=DEADLINE_SECONDS)

    assert workshop.names() == before


def writes_nameless_file(pid):
    """Tell whether a process has a deleted or nameless file open that holds something."""
    with contextlib.suppress(FileNotFoundError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if str(link.readlink()).endswith(" (deleted)") and link.stat().st_size:
                return True
    return False
