"""The demonstration, run as a reader runs it: whole, disturbed, interrupted, kept and stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from local_cloud.demo.waiting import until
from local_cloud.demo.workspace import Workspace
from shared.errors import Conflict

LOCAL_CLOUD = Path(sys.executable).parent / "local-cloud"
EXAMPLE = Path(__file__).parents[2] / "examples" / "confidential_ml"
KEY = "my_confidential_app"
STEPS = [
    "start the local cloud",
    "enrol and start three devices",
    "provision the class key",
    "build the confidential package",
    "release the class key to the devices",
    "install and run on both devices",
    "refuse the rogue and look for leaks",
    "rotate, update and revoke",
    "sum up",
]
LIMIT = 600
"""Seconds for one run; only a fault takes so long."""

pytestmark = pytest.mark.timeout(2 * LIMIT)


def demo(*arguments):
    return subprocess.run(
        [LOCAL_CLOUD, "demo", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def processes_of(state):
    """Every running process whose command line names the state folder."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(state) in command:
            found[int(folder.name)] = command
    return found


def assert_nothing_runs_in(state):
    until(lambda: None if processes_of(state) else True, what="end of every process")
    # The folder's lock lives as long as any minder, whatever its command line looks like.
    lock = until(lambda: take_or_none(state), what="release of the state folder")
    os.close(lock)


def take_or_none(state):
    try:
        return Workspace(root=state).take()
    except Conflict:
        return None


def check_final_state(report):
    """What every run ends in, disturbed or not."""
    assert [step["name"] for step in report["steps"]] == STEPS
    assert all(step["ok"] is True and step["seconds"] >= 0 for step in report["steps"])
    assert set(report["devices"]) == {"edge-01", "edge-02", "rogue-01"}
    for device_id in ("edge-01", "edge-02"):
        device = report["devices"][device_id]
        assert device["state"] == "released"
        assert device["keys"] == {KEY: 2}
        assert device["packages"] == {KEY: "1.1.0"}
        assert device["accuracy"] >= 0.95
    rogue = report["devices"]["rogue-01"]
    assert rogue["state"] == "denied"
    assert rogue["reason"]
    assert (rogue["keys"], rogue["packages"], rogue["accuracy"]) == ({}, {}, None)
    assert report["leaks_found"] == 0


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A whole run whose processes were kept, until the tests of this module are over."""
    folder = tmp_path_factory.mktemp("kept")
    state, report = folder / "state", folder / "report.json"
    try:
        yield state, report, demo("--json", report, "--state", state, "--keep")
    finally:
        demo("--stop", "--state", state)


def test_the_whole_story_ends_well(kept):
    _, report_file, done = kept
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(report_file.read_text())
    check_final_state(report)
    times = report["time_to_key_ms"]
    assert set(times) == {"n", "p50", "p99"}
    assert times["n"] == 2
    assert 0 < times["p50"] <= times["p99"]
    assert set(report) == {"steps", "time_to_key_ms", "devices", "leaks_found"}


def test_the_transcript_shows_predictions_refusals_and_how_to_stop(kept):
    state, report_file, done = kept
    rows = [line.split() for line in done.stdout.splitlines()]
    shipped = [json.loads(line) for line in (EXAMPLE / "data" / "images.jsonl").read_text().splitlines()]
    labels = [str(image["label"]) for image in shipped]
    assert ["true", "label", *labels] in rows
    for device_id in ("edge-01", "edge-02"):
        predicted = next(row[1:] for row in rows if row[:1] == [device_id] and len(row) == len(labels) + 1)
        assert sum(a == b for a, b in zip(predicted, labels, strict=True)) >= 18
    reason = json.loads(report_file.read_text())["devices"]["rogue-01"]["reason"]
    assert f"rogue-01 is tagged denied: {reason}" in done.stdout
    assert "edge-01 refuses package 1.0" in done.stdout
    assert f"demo --stop --state {state}" in done.stdout


def test_no_file_holds_a_piece_of_the_model_by_another_way_of_looking(kept):
    state, report_file, _ = kept
    model = (EXAMPLE / "model" / "weights.bin").read_bytes()
    pieces = {model[start : start + 64] for start in range(len(model) - 63)}
    source = state / "build-machine" / "source"
    looked_at = 0
    for file in (*state.rglob("*"), report_file):
        if file.is_file() and not file.is_relative_to(source):
            data = file.read_bytes()
            assert not any(data[start : start + 64] in pieces for start in range(len(data) - 63)), file
            looked_at += 1
    assert looked_at > 10
    assert any(piece in (source / "digits-1.0.pyz").read_bytes() for piece in list(pieces)[:1])


def test_private_files_are_private(kept):
    state, _, _ = kept
    for name in ("build-machine/build.key", "build-machine/signing.key", "devices/edge-01/connection-string"):
        assert (state / name).stat().st_mode & 0o077 == 0, name


def test_kept_devices_answer_until_they_are_stopped(kept):
    state, _, _ = kept
    image = (EXAMPLE / "data" / "images.jsonl").read_text().splitlines()[1]
    cpm = Path(sys.executable).parent / "cpm"
    socket = (state / "sockets").resolve() / "edge-02.sock"
    command = [cpm, "run", KEY, "--socket", socket]
    answer = subprocess.run(command, input=image, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(answer.stdout)["prediction"] == json.loads(image)["label"]

    again = demo("--state", state)
    assert again.returncode == 1
    assert "a demo is still running here" in again.stderr
    assert f"hint: stop it with: {LOCAL_CLOUD} demo --stop --state {state}" in again.stderr

    assert processes_of(state)
    stopped = demo("--stop", "--state", state)
    assert stopped.returncode == 0, stopped.stderr
    assert_nothing_runs_in(state)
    assert demo("--stop", "--state", state).returncode == 0


def pid_in(file):
    """The process id in a file, which is written once its process has started."""
    deadline = time.monotonic() + 120
    while not (file.exists() and file.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"{file} was not written"
        threading.Event().wait(0.01)
    return int(file.read_text())


def test_killed_processes_come_back_and_the_story_ends_the_same(tmp_path):
    state, report = tmp_path / "state", tmp_path / "report.json"
    victims = {
        "[3/9]": state / "run" / "local-cloud.pid",
        "[4/9]": state / "run" / "edge-01-agent.pid",
        "[5/9]": state / "cloud" / "run" / "key-vault.pid",
        "[6/9]": state / "run" / "edge-02-cpm.pid",
        "[7/9]": state / "cloud" / "run" / "functions-host.pid",
        "[8/9]": state / "cloud" / "run" / "twin-hub.pid",
    }
    command = [LOCAL_CLOUD, "demo", "--json", report, "--state", state]
    killed, told = [], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        for line in running.stdout:
            told.append(line)
            for moment in [moment for moment in victims if moment in line]:
                pid = pid_in(victims.pop(moment))
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    transcript = "".join(told)
    assert running.returncode == 0, transcript
    assert len(killed) == 6, transcript
    check_final_state(json.loads(report.read_text()))
    assert_nothing_runs_in(state)


def test_a_running_demo_can_be_stopped_from_elsewhere(tmp_path):
    state = tmp_path / "state"
    command = [LOCAL_CLOUD, "demo", "--state", state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        next(line for line in running.stdout if "[1/9]" in line)
        stopped = demo("--stop", "--state", state)
        rest = running.stdout.read()
    assert stopped.returncode == 0, stopped.stderr
    assert "interrupted by SIGTERM" in rest
    assert_nothing_runs_in(state)


def test_an_interrupted_run_says_so_and_leaves_nothing_running(tmp_path):
    state = tmp_path / "state"
    command = [LOCAL_CLOUD, "demo", "--state", state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        for line in running.stdout:
            if "[2/9]" in line:
                assert processes_of(state)
            if "[3/9]" in line:
                running.send_signal(signal.SIGTERM)
                break
        rest = running.stdout.read()
    assert running.returncode == 128 + signal.SIGTERM
    assert "interrupted by SIGTERM" in rest
    assert_nothing_runs_in(state)


FINALIZED = """
import os, signal, sys
from local_cloud import main
from local_cloud.demo import main as demo
from local_cloud.demo.steps import Step

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

def finalize(world, transcript):
    Finalized()

def never(world, transcript):
    raise AssertionError("the step after")

demo.STEPS = (Step(name="one", run=finalize), Step(name="two", run=never))
sys.exit(main.main(["demo", "--state", sys.argv[1]]))
"""


def test_a_signal_that_comes_in_a_finalizer_is_not_lost(tmp_path):
    command = [sys.executable, "-c", FINALIZED, tmp_path / "state"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 128 + signal.SIGTERM, done.stdout
    assert "interrupted by SIGTERM" in done.stdout


def test_a_report_that_cannot_be_written_is_told_before_anything_starts(tmp_path):
    done = demo("--json", tmp_path / "missing" / "report.json", "--state", tmp_path / "state")
    assert done.returncode == 1
    assert "expected a file in a folder that exists" in done.stderr
    assert not (tmp_path / "state").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("keep me")
    done = demo("--state", tmp_path)
    assert done.returncode == 1
    assert "expected an empty folder or an earlier demo's" in done.stderr
    assert (tmp_path / "mine").read_text() == "keep me"


def test_stopping_where_nothing_runs_does_nothing(tmp_path):
    done = demo("--stop", "--state", tmp_path / "never")
    assert done.returncode == 0
    assert "nothing is running" in done.stdout
    assert not (tmp_path / "never").exists()
