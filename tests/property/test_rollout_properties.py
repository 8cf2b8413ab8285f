"""A rotation in stages, whatever the fleet and however it goes: who holds what, and who is written."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulators.cloud import AUDIENCE, Cloud
from simulators.fielded_cpm import FieldedCpm

from shared.policy.document import load_policy
from shared.rollout import WHOLE, Rollout, bucket
from shared.types import KeyName

KEYS = (KeyName("app"), KeyName("other-app"))
MESSY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])

fleets = st.lists(
    st.tuples(st.integers(0, 10**6), st.booleans()), min_size=1, max_size=12, unique_by=lambda each: each[0]
)
rollouts = st.lists(st.integers(1, WHOLE - 1), max_size=4, unique=True).map(
    lambda shares: Rollout(stages=(*sorted(shares), WHOLE))
)


class Fleet:
    """Devices, some of which the policy allows nothing."""

    def __init__(self, members) -> None:
        self.cloud = Cloud()
        self.entitled = {f"dev-{number}" for number, is_entitled in members if is_entitled}
        for number, is_entitled in members:
            self.cloud.enrol(f"dev-{number}")
            if not is_entitled:
                self.cloud.registry.overwrite(f"dev-{number}", "tags", {"class": "kiosk"})
        for name in KEYS:
            self.cloud.class_keys.provision(name, bits=256)
        self.settle()

    def settle(self) -> set[str]:
        """Make passes until nothing is written any more; return whose desired was."""
        before = len(self.cloud.registry.changes)
        assert self.cloud.run() == []
        quiet = len(self.cloud.registry.writes), self.cloud.signer.signatures
        self.cloud.wait(seconds=1)
        assert self.cloud.run() == []
        everybody = [str(name) for name in self.cloud.registry._documents]
        assert self.cloud.run(*everybody) == []
        assert (len(self.cloud.registry.writes), self.cloud.signer.signatures) == quiet
        return {str(device_id) for device_id, _ in self.cloud.registry.changes[before:]}

    def holding(self, name: KeyName, version: int) -> set[str]:
        """Return the devices whose release lists that version."""
        return {
            device_id
            for device_id in self.entitled
            if self.cloud.release(device_id).keys[name].version == version
        }

    def reached(self, share: int) -> set[str]:
        return {device_id for device_id in self.entitled if bucket(device_id) < share}


@MESSY
@given(fleets, rollouts, st.integers(0, 5))
def test_at_every_share_exactly_those_whom_it_reaches_hold_the_version(members, rollout, aborted_at):
    fleet = Fleet(members)
    keys, name, other = fleet.cloud.class_keys, *KEYS
    before: set[str] = set()
    keys.rotate(name, rollout=rollout)
    for stage, share in enumerate(rollout.stages):
        written = fleet.settle()
        reached = fleet.reached(share)
        assert fleet.holding(name, 2) == reached
        assert fleet.holding(name, 1) == fleet.entitled - reached
        assert fleet.holding(other, 1) == fleet.entitled
        assert written == reached - before
        for device_id in fleet.entitled:
            told = fleet.cloud.tag(device_id).get("rollout", {})
            assert told == ({name: 2} if device_id in reached else {})
        before = reached
        if stage == aborted_at:
            keys.move_rollout(name, version=2, stage=stage, move=Rollout.aborted)
            assert fleet.settle() == reached
            assert fleet.holding(name, 1) == fleet.entitled
            assert all("rollout" not in fleet.cloud.tag(device_id) for device_id in fleet.entitled)
            return
        keys.move_rollout(name, version=2, stage=stage, move=Rollout.advanced)
    assert fleet.settle() == set()
    assert fleet.holding(name, 2) == fleet.entitled


@MESSY
@given(fleets, rollouts, rollouts, st.data())
def test_rollouts_of_two_class_keys_do_not_disturb_each_other(members, first, second, data):
    fleet = Fleet(members)
    keys = fleet.cloud.class_keys
    plans = dict(zip(KEYS, (first, second), strict=True))
    for name, plan in plans.items():
        keys.rotate(name, rollout=plan)
    for _ in range(4):
        fleet.settle()
        for name, plan in plans.items():
            assert fleet.holding(name, 2) == fleet.reached(plan.share)
        name = data.draw(st.sampled_from(KEYS))
        if plans[name].stage < len(plans[name].stages):
            plans[name] = keys.move_rollout(name, version=2, stage=plans[name].stage, move=Rollout.advanced)


@MESSY
@given(rollouts, st.integers(0, 4), st.booleans())
def test_a_policy_that_names_devices_settles_them_all_the_same(rollout, stages, aborts):
    fleet = Fleet([(number, True) for number in range(6)])
    named = [
        {"claim": "hub.device_id", "in": [f"dev-{number}" for number in range(6)]},
        {"claim": "hub.tags.class", "equals": "gateway"},
    ]
    rule = {
        "id": "named",
        "keys": ["*"],
        "operations": ["distribute"],
        "algorithms": ["HPKE-X25519"],
        "lease_seconds": 86400,
        "release": {"allOf": named},
    }
    policy = {"version": "1.0.0", "id": "fleet-a", "serial": 2, "rules": [rule]}
    fleet.cloud.policy = load_policy(json.dumps(policy).encode(), where="policy")
    fleet.settle()
    plan = rollout
    fleet.cloud.class_keys.rotate(KEYS[0], rollout=plan)
    for stage in range(min(stages, len(plan.stages))):
        plan = fleet.cloud.class_keys.move_rollout(KEYS[0], version=2, stage=stage, move=Rollout.advanced)
    if aborts and plan.stage < len(plan.stages):
        plan = fleet.cloud.class_keys.move_rollout(KEYS[0], version=2, stage=plan.stage, move=Rollout.aborted)
    fleet.settle()
    assert fleet.holding(KEYS[0], 2) == fleet.reached(plan.share)


CANARY, OTHER = "edge-01", "edge-02"


@MESSY
@given(st.lists(st.sampled_from(["advance", "abort", "finish", "revoke"]), max_size=6))
def test_the_real_cpm_takes_every_release_of_a_rollout_also_the_older_version_after_an_abort(moves):
    name, cloud = KEYS[0], Cloud()
    cloud.class_keys.provision(name, bits=256)
    cpms = {}
    for device_id in (CANARY, OTHER):
        key = cloud.enrol(device_id).private_key
        release_keys = cloud.signer.public_keys()
        cpms[device_id] = FieldedCpm(device_id, AUDIENCE, key, release_keys, lambda: int(cloud.seconds()))

    def distribute():
        cloud.wait(seconds=1)
        assert cloud.run() == []
        for device_id, cpm in cpms.items():
            cpm.apply(cloud.registry.snapshot(device_id)["desired"])

    distribute()
    steps = {"advance": Rollout.advanced, "abort": Rollout.aborted, "finish": Rollout.finished}
    for move in moves:
        unfinished = cloud.store.state(name).unfinished
        if move == "revoke":
            version = cloud.store.state(name).newest_finished.version - 1
            if version >= 1:
                cloud.class_keys.revoke(name, version)
        elif unfinished is None:
            cloud.class_keys.rotate(name, rollout=Rollout(stages=(1500, WHOLE)))
        else:
            stage = unfinished.rollout.stage
            cloud.class_keys.move_rollout(name, version=unfinished.version, stage=stage, move=steps[move])
        distribute()
        state = cloud.store.state(name)
        for device_id, cpm in cpms.items():
            assert state.version_for(device_id) in cpm.versions(name)
            assert cpm.state.floors.get(name, 1) == state.floor
            assert min(cpm.versions(name)) >= state.floor


def test_after_an_abort_the_former_canary_can_use_both_versions_and_its_floor_has_not_risen():
    name, cloud = KEYS[0], Cloud()
    cloud.class_keys.provision(name, bits=256)
    key = cloud.enrol(CANARY).private_key
    cpm = FieldedCpm(CANARY, AUDIENCE, key, cloud.signer.public_keys(), lambda: int(cloud.seconds()))
    held = []
    plan = Rollout(stages=(1500, WHOLE))
    for change in (
        lambda: None,
        lambda: cloud.class_keys.rotate(name, rollout=plan),
        lambda: cloud.class_keys.move_rollout(name, version=2, stage=0, move=Rollout.aborted),
        lambda: cloud.class_keys.rotate(name),
        lambda: cloud.class_keys.revoke(name, 2),
    ):
        change()
        cloud.wait(seconds=1)
        cloud.run()
        cpm.apply(cloud.registry.snapshot(CANARY)["desired"])
        held.append((cloud.release(CANARY).keys[name].version, cpm.versions(name), dict(cpm.state.floors)))
    assert held == [
        (1, [1], {}),
        (2, [1, 2], {}),
        (1, [1, 2], {}),
        (3, [1, 2, 3], {}),
        (3, [3], {name: 3}),
    ]
