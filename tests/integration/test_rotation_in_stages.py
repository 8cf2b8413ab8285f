"""``edb keys rotate --canary``: against an API that keeps to the contracts, and against the local cloud."""

import json
import secrets
import subprocess

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from simulators.edb_process import EDB, clean_environment, edb, on_terminal
from simulators.fielded_device import FieldedDevice
from simulators.key_service_api import FUNCTION_KEY, KeyServiceApi, Refused, holder
from simulators.running_cloud import RunningCloud

from local_cloud.state import StateFolder
from shared.rollout import WHOLE, Rollout, bucket

FIRST, SECOND, THIRD = "edge-01", "edge-03", "edge-02"
"""Devices that a share of 15 %, one of 50 %, and only the whole reaches."""

IN_STAGES = ("--canary", "15%", "--then", "50%,100%", "--pause-on-errors", "2%")


def test_the_devices_of_these_tests_stand_where_they_have_to():
    assert bucket(FIRST) < 1500 <= bucket(SECOND) < 5000 <= bucket(THIRD)


def events_of(text):
    return [json.loads(line) for line in text.splitlines()]


# ── against the simulated API ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def api(tmp_path):
    service = KeyServiceApi(tmp_path)
    service.add_key("app")
    yield service
    service.close()


@pytest.fixture
def call(api):
    environment = {"EDB_URL": api.url, "EDB_CA_FILE": str(api.ca_file), "EDB_FUNCTION_KEY": FUNCTION_KEY}

    def run(*arguments, **more):
        return edb(*arguments, env=environment, **more)

    run.environment = environment
    return run


def follow(api, *, failing=()):
    """Let every device whom the rollout reaches have the version, or fail, with the next look."""

    def turn():
        rollout = api.keys["app"].get("rollout", {"share": 0})
        version = api.keys["app"]["version"]
        api.holders = [
            holder(name, version, staged=version, error="unwrap_failed" if name in failing else None)
            if bucket(name) < rollout["share"]
            else holder(name, version - 1)
            for name in (FIRST, SECOND, THIRD)
        ]

    api.on_holders = turn


def requests(api, name):
    return [path for _, path, _ in api.requests if path == f"/api/{name}"]


def test_it_goes_through_the_stages_to_the_end(api, call):
    follow(api)

    rotated = call("keys", "rotate", "app", *IN_STAGES, "--json")

    assert rotated.returncode == 0, rotated.stderr
    events = events_of(rotated.stdout)
    assert events[0] == {"event": "rotated", "key_name": "app", "version": 2}
    stages = [(each["stage"], each["share"]) for each in events if each["event"] == "stage"]
    assert stages == [(0, 1500), (1, 5000), (2, WHOLE)]
    told = [each["device_id"] for each in events if each["event"] == "device"]
    assert told == [FIRST, SECOND, THIRD]
    assert events[-1] == {
        "event": "done",
        "key_name": "app",
        "version": 2,
        "acknowledged": 3,
        "failed": 0,
        "devices": 3,
    }
    assert api.keys["app"]["rollout"]["state"] == "finished"
    assert len(requests(api, "ChangeRollout")) == 3


def test_lines_tell_the_stages_and_those_that_reach_nobody(api, call):
    follow(api)

    rotated = call("keys", "rotate", "app", "--canary", "0.01%")

    assert rotated.returncode == 0, rotated.stderr
    assert rotated.stdout.splitlines() == [
        "app: version 2 was made",
        "app version 2, stage 1 of 2 (0.01%)",
        "app version 2, stage 1 of 2 (0.01%): reaches no device that holds the key",
        "app version 2, stage 2 of 2 (100%)",
        f"{FIRST}: acknowledged",
        f"{THIRD}: acknowledged",
        f"{SECOND}: acknowledged",
        "app version 2: it is there for all devices",
    ]


def test_a_terminal_shows_the_stage_live(api, call):
    follow(api)

    status, written = on_terminal("keys", "rotate", "app", *IN_STAGES, env=call.environment)

    assert status == 0, written
    assert "stage 3 of 3 (100%): 3 of 3 devices have acknowledged" in written


def test_it_pauses_on_errors_and_a_resumption_knows_all_that_was_asked_for(api, call):
    follow(api, failing={SECOND})

    paused = call("keys", "rotate", "app", *IN_STAGES, "--json")
    shown = call("keys", "show", "app")
    still = call("keys", "rotate", "app", "--resume")
    follow(api)
    resumed = call("keys", "rotate", "app", "--resume", "--json")

    assert paused.returncode == 1
    last = events_of(paused.stdout)[-1]
    assert (last["event"], last["reason"], last["failed"], last["devices"]) == ("paused", "errors", 1, 2)
    assert "app version 2, stage 2 of 3 (50%): 1 of 2 devices failed, 2% may" in paused.stderr
    assert "hint: edb keys rotate app --resume goes on, --abort gives the version up" in paused.stderr
    assert "staged: stage 2 of 3 (15%, 50%, 100%)" in shown.stdout
    assert still.returncode == 1
    assert resumed.returncode == 0, resumed.stderr
    assert [each["stage"] for each in events_of(resumed.stdout) if each["event"] == "stage"] == [1, 2]
    assert len(requests(api, "RotateKey")) == 1


def test_a_stage_that_takes_too_long_is_left_where_it_is(api, call):
    api.holders = [holder(FIRST), holder(SECOND)]

    paused = call("keys", "rotate", "app", *IN_STAGES, "--timeout", "1", "--json")

    assert paused.returncode == 1
    assert events_of(paused.stdout)[-1]["reason"] == "timeout"
    assert "0 of 1 devices have acknowledged in 1 s" in paused.stderr
    assert requests(api, "ChangeRollout") == []


def test_a_lost_answer_advances_nothing_twice(api, call):
    follow(api)
    api.stage("app", Rollout(stages=(1500, 5000, WHOLE)))

    def lose():
        follow(api)
        api.on_holders()
        api.lost = 0

    api.on_holders = lose
    original = api._move

    def moved(name, asked):
        answer = original(name, asked)
        api.lost = 1
        return answer

    api._move = moved
    resumed = call("keys", "rotate", "app", "--resume")

    assert resumed.returncode == 0, resumed.stderr
    assert api.keys["app"]["rollout"]["state"] == "finished"
    assert api.keys["app"]["rollout"]["stage"] == 3


def test_aborting_and_finishing_at_once(api, call):
    api.stage("app", Rollout(stages=(1500, WHOLE)))
    aborted = call("keys", "rotate", "app", "--abort")
    again = call("keys", "rotate", "app", "--abort", "--json")
    resumed = call("keys", "rotate", "app", "--resume")
    finished_too_late = call("keys", "rotate", "app", "--finish")
    api.stage("app", Rollout(stages=(1500, WHOLE)))
    finished = call("keys", "rotate", "app", "--finish", "--json")
    over = call("keys", "rotate", "app", "--resume")

    assert (aborted.returncode, aborted.stdout) == (0, "app: the rollout of version 1 is aborted\n")
    assert json.loads(again.stdout)["rollout"]["state"] == "aborted"
    assert resumed.returncode == 1
    assert "hint: edb keys rotate app makes another version" in resumed.stderr
    assert finished_too_late.returncode == 1
    assert json.loads(finished.stdout)["rollout"]["state"] == "finished"
    assert (over.returncode, over.stdout) == (0, "app version 1: it is there for all devices\n")


def test_a_rotation_for_all_at_once_is_none_to_resume(api, call):
    for option in ("--resume", "--abort", "--finish"):
        refused = call("keys", "rotate", "app", option)
        assert refused.returncode == 1
        assert "app: version 1 is not rolled out in stages" in refused.stderr
    assert requests(api, "ChangeRollout") == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--canary", "1"], "expected 0% to 100% in steps of 0.01"),
        (["--canary", "0%"], "more devices than the one before"),
        (["--canary", "1%", "--then", "10%"], "last stage to reach all devices"),
        (["--canary", "10%", "--then", "1%,100%"], "more devices than the one before"),
        (["--canary", "100%", "--then", "100%"], "more devices than the one before"),
        (["--canary", "1%", "--acknowledged", "0%"], "no share"),
        (["--then", "100%"], "go with --canary"),
        (["--resume", "--pause-on-errors", "5%"], "go with --canary"),
        (["--resume", "--abort"], "not allowed with"),
        (["--canary", "1%", "--finish"], "not allowed with"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage_and_nothing_is_sent(api, call, options, told):
    refused = call("keys", "rotate", "app", *options)

    assert refused.returncode == 2
    assert told in refused.stderr
    assert api.requests == []


def test_interrupted_it_says_that_it_stays_where_it_is(api, call):
    api.holders = [holder(FIRST)]
    command = [EDB, "keys", "rotate", "app", *IN_STAGES, "--json"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(**call.environment),
    )
    while json.loads(running.stdout.readline())["event"] != "device":
        pass
    running.send_signal(2)
    _, told = running.communicate(timeout=60)

    assert running.returncode == 130
    assert "app version 2, stage 1 of 3 (15%): it stays there; edb keys rotate app --resume goes on" in told
    assert api.keys["app"]["rollout"]["stage"] == 0


def test_who_still_holds_a_version_is_one_command(api, call):
    api.holders = [
        holder(FIRST, 2, staged=2),
        holder(SECOND, 1, error="unwrap_failed"),
        holder(THIRD, 1),
    ]

    everybody = call("keys", "holders", "app")
    still = call("keys", "holders", "app", "--version", "1", "--json")
    failed = call("keys", "holders", "app", "--state", "error")
    nobody = call("keys", "holders", "app", "--version", "7")

    words = [line.split() for line in everybody.stdout.splitlines()]
    assert words == [
        ["device", "version", "state", "staged", "bucket", "detail"],
        [FIRST, "2", "installed", "2", str(bucket(FIRST)), "released"],
        [THIRD, "1", "installed", "-", str(bucket(THIRD)), "released"],
        [SECOND, "1", "error", "-", str(bucket(SECOND)), "unwrap_failed"],
    ]
    assert [each["device_id"] for each in json.loads(still.stdout)["holders"]] == [SECOND, THIRD]
    assert failed.stdout.splitlines()[1].split()[0] == SECOND
    assert (nobody.returncode, nobody.stdout) == (0, "no device holds it\n")


def test_a_service_that_refuses_is_told(api, call):
    api.stage("app", Rollout(stages=(1500, WHOLE)))
    other = call("keys", "rotate", "app")
    api.refusals.append(Refused(403, "key_disabled", "version 1 is disabled"))
    disabled = call("keys", "rotate", "app", "--abort")

    assert other.returncode == 1
    assert "rollout_unfinished" in other.stderr
    assert disabled.returncode == 3


# ── against the real local cloud ──────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with RunningCloud(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture
def live(cloud):
    def run(*arguments, **more):
        return edb(*arguments, "--cloud", cloud.state / "cloud.json", seconds=500, **more)

    return run


@pytest.fixture(scope="module")
def fleet(cloud):
    """Devices that run, each with the CPM's own judgement."""
    pinned = [load_pem_public_key(key.encode()) for key in cloud.description["release_keys"]]
    devices = {name: FieldedDevice(StateFolder(cloud.state), name, pinned) for name in (FIRST, SECOND, THIRD)}
    yield devices
    for device in devices.values():
        device.close()


@pytest.fixture
def provisioned(live, fleet, eventually):
    """A class key of the test's own whose version 1 all devices hold."""
    name = f"app-{secrets.token_hex(4)}"
    assert live("keys", "provision", name).returncode == 0
    eventually(lambda: held(fleet, name) == [[1], [1], [1]], what="version 1 on all devices")
    return name


def held(fleet, name):
    return [fleet[device_id].cpm.versions(name) for device_id in (FIRST, SECOND, THIRD)]


def holders(live, name, version):
    listed = json.loads(live("keys", "holders", name, "--version", version, "--json").stdout)
    return {each["device_id"] for each in listed["holders"]}


def failing(live, name):
    listed = json.loads(live("keys", "holders", name, "--state", "error", "--json").stdout)
    return {each["device_id"]: each["error"] for each in listed["holders"]}


def begin(cloud, *arguments):
    """Start the command, to be killed."""
    command = [EDB, "keys", "rotate", *arguments, "--json", "--cloud", cloud.state / "cloud.json"]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, env=clean_environment()
    )


def read_until(process, wanted):
    for line in process.stdout:
        event = json.loads(line)
        if wanted.items() <= event.items():
            return event
    raise AssertionError(f"it ended before it told {wanted}")


@pytest.mark.timeout(900)
def test_killed_in_the_middle_it_is_resumed_from_where_it_stood(cloud, live, fleet, provisioned, eventually):
    name = provisioned
    fleet[SECOND].sleep()
    try:
        running = begin(cloud, name, *IN_STAGES)
        read_until(running, {"event": "stage", "stage": 1})
        read_until(running, {"event": "device", "device_id": SECOND, "stage": "released"})
        running.kill()
        running.wait(timeout=60)
        running.stdout.close()

        shown = live("keys", "show", name)
        assert "staged: stage 2 of 3 (15%, 50%, 100%)" in shown.stdout
        assert held(fleet, name) == [[1, 2], [1], [1]]
        assert holders(live, name, 2) == {FIRST, SECOND}
        refused = live("keys", "rotate", name, "--json")
        assert json.loads(refused.stdout)["code"] == "rollout_unfinished"
    finally:
        fleet[SECOND].wake()

    resumed = live("keys", "rotate", name, "--resume", "--json")

    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    events = events_of(resumed.stdout)
    assert [each["stage"] for each in events if each["event"] == "stage"] == [1, 2]
    assert (events[-1]["event"], events[-1]["acknowledged"]) == ("done", 3)
    assert held(fleet, name) == [[1, 2]] * 3
    eventually(lambda: holders(live, name, 1) == set(), what="nobody reporting version 1")
    assert holders(live, name, 2) == {FIRST, SECOND, THIRD}


@pytest.mark.timeout(900)
def test_it_pauses_where_a_device_fails_and_goes_on_once_that_is_mended(live, fleet, provisioned, eventually):
    name = provisioned
    fleet[SECOND].fails = True
    try:
        paused = live("keys", "rotate", name, *IN_STAGES, "--json")

        assert paused.returncode == 1, paused.stdout + paused.stderr
        last = events_of(paused.stdout)[-1]
        assert (last["event"], last["reason"], last["failed"], last["devices"]) == ("paused", "errors", 1, 2)
        assert held(fleet, name)[2] == [1]
        assert failing(live, name) == {SECOND: "unwrap_failed"}
    finally:
        fleet[SECOND].fails = False
        fleet[SECOND].wake()

    eventually(lambda: failing(live, name) == {}, what="the device's word that it is mended")
    resumed = live("keys", "rotate", name, "--resume", "--json")

    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert held(fleet, name) == [[1, 2]] * 3


@pytest.mark.timeout(900)
def test_aborted_it_gives_the_older_version_back_and_the_next_rotation_makes_another(
    live, fleet, provisioned, eventually
):
    name = provisioned
    fleet[FIRST].sleep()
    try:
        paused = live("keys", "rotate", name, *IN_STAGES, "--timeout", "1", "--json")
        assert (paused.returncode, events_of(paused.stdout)[-1]["reason"]) == (1, "timeout")
    finally:
        fleet[FIRST].wake()
    eventually(lambda: held(fleet, name) == [[1, 2], [1], [1]], what="the staged version on the canary")

    aborted = live("keys", "rotate", name, "--abort")

    def released():
        shown = json.loads(live("devices", "show", FIRST, "--json").stdout)
        return shown["released"]["keys"][name], shown["reported"]["sequence"] == shown["released"]["sequence"]

    assert aborted.returncode == 0, aborted.stderr
    eventually(lambda: released() == (1, True), what="the older version taken by the former canary")
    assert fleet[FIRST].cpm.state.floors.get(name, 1) == 1
    assert fleet[FIRST].cpm.versions(name) == [1, 2]
    rotated = live("keys", "rotate", name, "--wait", "--json")
    assert rotated.returncode == 0, rotated.stdout + rotated.stderr
    assert events_of(rotated.stdout)[0]["version"] == 3
    assert [versions[-1] for versions in held(fleet, name)] == [3, 3, 3]
