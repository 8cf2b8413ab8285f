"""edb waits until devices have acknowledged, and tells how far they are."""

import json
import signal
import subprocess

from simulators.edb_process import EDB, clean_environment, on_terminal
from simulators.key_service_api import device

OLD = {"released": (10, {"app": 1}), "reported": (10, {"app": 1})}
GIVEN = {"released": (11, {"app": 2}), "reported": (10, {"app": 1})}
DONE = {"released": (11, {"app": 2}), "reported": (11, {"app": 2})}


def play(api, *scenes):
    """Let the fleet be each scene for one look, and stay as the last; a look has a page for each two."""
    remaining = list(scenes)

    def turn():
        if len(api.devices) == 0 or api.requests[-1][1].find("token=") < 0:
            api.devices = [device(name, **how) for name, how in remaining[0].items()]
            if len(remaining) > 1:
                remaining.pop(0)

    api.on_devices = turn


def test_waiting_tells_each_change_and_ends_when_all_have_acknowledged(api, call):
    api.add_key("app")
    bystander = {"released": (5, {"other": 1}), "reported": None}
    play(
        api,
        {"edge-01": OLD, "edge-02": OLD, "edge-03": bystander},
        {"edge-01": DONE, "edge-02": GIVEN, "edge-03": bystander},
        {"edge-01": DONE, "edge-02": DONE, "edge-03": bystander},
    )

    waited = call("keys", "rotate", "app", "--wait", "--json")

    assert waited.returncode == 0, waited.stderr
    events = [json.loads(line) for line in waited.stdout.splitlines()]
    assert events[0] == {"event": "rotated", "key_name": "app", "version": 2}
    assert [(each["device_id"], each["stage"]) for each in events[1:-1]] == [
        ("edge-01", "waiting"),
        ("edge-02", "waiting"),
        ("edge-01", "acknowledged"),
        ("edge-02", "released"),
        ("edge-02", "acknowledged"),
    ]
    assert events[-1] == {"event": "done", "key_name": "app", "acknowledged": 2, "devices": 2}


def test_waiting_that_is_interrupted_has_changed_nothing_and_goes_on(api, call):
    api.add_key("app", version=2)
    play(api, {"edge-01": OLD})
    process = subprocess.Popen(
        [EDB, "keys", "show", "app", "--wait", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(**call.environment),
    )
    first = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    play(api, {"edge-01": DONE})
    resumed = call("keys", "show", "app", "--wait")

    assert first["stage"] == "waiting"
    assert process.returncode == 130
    assert errors == "edb: error: interrupted\n"
    assert {method for method, _, _ in api.requests} == {"GET"}
    assert resumed.stdout == "edge-01: acknowledged\napp version 2: all 1 devices have acknowledged\n"


def test_waiting_too_long_fails_and_says_how_to_go_on(api, call):
    api.add_key("app", version=2)
    play(api, {"edge-01": DONE, "edge-02": OLD})

    waited = call("keys", "show", "app", "--wait", "--timeout", "0.1")

    assert waited.returncode == 1
    assert "1 of 2 devices have not acknowledged in 0.1 s" in waited.stderr
    assert "hint: edb keys show app --wait goes on waiting" in waited.stderr


def test_a_revocation_of_the_whole_key_waits_for_devices_that_are_released_nothing_any_more(api, call):
    api.add_key("app")
    gone = {"released": (11, {}, {"app": 2})}
    play(
        api,
        {"edge-01": OLD},
        {"edge-01": gone | {"reported": (10, {"app": 1})}},
        {"edge-01": gone | {"reported": (11, {})}},
    )

    waited = call("keys", "revoke", "app", "--version", "1", "--yes", "--wait", "--json")

    assert waited.returncode == 0, waited.stderr
    stages = [json.loads(line).get("stage") for line in waited.stdout.splitlines()]
    assert stages == [None, "waiting", "released", "acknowledged", None]


def test_a_terminal_shows_the_devices_live(api, call):
    api.add_key("app", version=2)
    play(api, {"edge-01": OLD, "edge-02": DONE}, {"edge-01": DONE, "edge-02": DONE})

    status, written = on_terminal("keys", "show", "app", "--wait", env=call.environment)

    assert status == 0
    assert "app version 2: 1 of 2 devices have acknowledged" in written
    assert "app version 2: all 2 devices have acknowledged" in written
    assert "\x1b[32macknowledged" in written
