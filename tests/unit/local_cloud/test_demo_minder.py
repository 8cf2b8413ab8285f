"""What a minder minds comes back when it is killed, and ends when it should."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from local_cloud.demo.processes import Processes, check_log, stop_standing
from local_cloud.demo.waiting import until
from local_cloud.demo.workspace import Workspace
from shared.errors import Conflict, EdbError


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(root=tmp_path / "state")
    yield workspace
    workspace.remove_sockets()


@pytest.fixture
def lock(workspace):
    lock = workspace.take()
    workspace.make()
    yield lock
    os.close(lock)


@pytest.fixture
def processes(workspace, lock):
    started = Processes(run_folder=workspace.run, environment=os.environ, lock=lock)
    yield started
    started.stop()


def sleeper(said="up"):
    return [sys.executable, "-uc", f"import time; print({said!r}); time.sleep(600)"]


def pid_of(workspace, name, *, other_than=None):
    """Wait for a process of that name, and return its id."""

    def look():
        try:
            pid = int((workspace.run / f"{name}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if pid != other_than and running(pid) else None

    return until(look, what=f"process {name}")


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid):
    until(lambda: None if running(pid) else True, what=f"end of {pid}")


def test_output_goes_to_the_log(workspace, processes, tmp_path):
    processes.start("one", sleeper("hello there"), log=tmp_path / "log")
    pid_of(workspace, "one")  # by then its log is there
    until(lambda: (tmp_path / "log").read_text() == "hello there\n" or None, what="its first words")


def test_a_killed_process_is_started_again(workspace, processes, tmp_path):
    processes.start("one", sleeper(), log=tmp_path / "log")
    first = pid_of(workspace, "one")
    os.kill(first, signal.SIGKILL)
    second = pid_of(workspace, "one", other_than=first)
    os.kill(second, signal.SIGKILL)
    assert pid_of(workspace, "one", other_than=second) not in {first, second}


def test_stop_ends_every_process(workspace, processes, tmp_path):
    processes.start("one", sleeper(), log=tmp_path / "log")
    processes.start("two", sleeper(), log=tmp_path / "log")
    pids = [pid_of(workspace, "one"), pid_of(workspace, "two")]
    processes.stop()
    assert not any(running(pid) for pid in pids)


def test_a_process_that_ignores_the_request_to_end_is_killed(workspace, processes, tmp_path):
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1); time.sleep(600)"
    processes.start("one", [sys.executable, "-uc", stubborn], log=tmp_path / "log")
    pid = pid_of(workspace, "one")
    until(lambda: (tmp_path / "log").read_text() or None, what="its first word")
    processes.stop()
    assert not running(pid)


DEMONSTRATION = """
import os, sys, time
from pathlib import Path
from local_cloud.demo.processes import Processes
from local_cloud.demo.workspace import Workspace
workspace = Workspace(root=Path(sys.argv[1]))
lock = workspace.take()
workspace.make()
processes = Processes(run_folder=workspace.run, environment=os.environ, lock=lock)
processes.start("one", [sys.executable, "-c", "import time; time.sleep(600)"], log=workspace.root / "log")
while not (workspace.run / "one.pid").exists():
    time.sleep(0.01)
if "keep" in sys.argv:
    processes.keep()
else:
    time.sleep(600)
"""


def test_everything_ends_with_a_demonstration_that_is_killed(workspace):
    demonstration = subprocess.Popen([sys.executable, "-c", DEMONSTRATION, workspace.root])
    pid = pid_of(workspace, "one")
    demonstration.kill()
    demonstration.wait()
    wait_until_gone(pid)
    os.close(until(lambda: take_or_none(workspace), what="the lock"))


def take_or_none(workspace):
    try:
        return workspace.take()
    except Conflict:
        return None


def test_what_is_kept_outlives_the_demonstration_and_holds_the_folder_until_stopped(workspace):
    subprocess.run([sys.executable, "-c", DEMONSTRATION, workspace.root, "keep"], check=True)
    pid = pid_of(workspace, "one")
    with pytest.raises(Conflict, match="still running") as refused:
        workspace.take()
    assert "--stop" in refused.value.hint
    stop_standing(workspace.run)
    assert not running(pid)
    os.close(until(lambda: take_or_none(workspace), what="the lock"))


def test_what_is_kept_still_comes_back_when_killed(workspace):
    subprocess.run([sys.executable, "-c", DEMONSTRATION, workspace.root, "keep"], check=True)
    try:
        first = pid_of(workspace, "one")
        os.kill(first, signal.SIGKILL)
        assert pid_of(workspace, "one", other_than=first) != first
    finally:
        stop_standing(workspace.run)


def test_what_is_kept_ends_when_its_folder_is_removed(workspace):
    subprocess.run([sys.executable, "-c", DEMONSTRATION, workspace.root, "keep"], check=True)
    pid = pid_of(workspace, "one")
    workspace.remove_sockets()
    shutil.rmtree(workspace.root)
    wait_until_gone(pid)


def test_a_minder_that_is_killed_leaves_no_process_behind(workspace, processes, tmp_path):
    processes.start("one", sleeper(), log=tmp_path / "log")
    pid = pid_of(workspace, "one")
    minder = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(minder, signal.SIGKILL)
    wait_until_gone(pid)


def test_stopping_names_no_process_that_only_has_a_former_id(workspace, lock):
    innocent = subprocess.Popen(sleeper())
    try:
        (workspace.run / "standing.json").write_text(f"[[{innocent.pid}, 1]]")
        stop_standing(workspace.run)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_a_process_that_cannot_start_is_given_up_with_its_own_words(processes, tmp_path):
    log = tmp_path / "log"
    complain = "import sys; sys.exit('cpm: error: port 1 is taken\\nhint: free it')"
    processes.start("one", [sys.executable, "-c", complain], log=log)

    def look():
        check_log(log)

    with pytest.raises(EdbError, match="cpm: error: port 1 is taken") as raised:
        until(look, what="the third complaint")
    assert (raised.value.code, raised.value.hint) == ("cannot_start", "free it")
