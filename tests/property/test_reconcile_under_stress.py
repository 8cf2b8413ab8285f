"""Reconciling while everything happens at once: faults, crashes, conflicts, others between any two calls."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from simulators.stressed_fleet import IDENTITIES, KEYS, NAMES, StressedFleet

STRESS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

names = st.sampled_from(NAMES)
keys = st.sampled_from(KEYS)
kinds = st.sampled_from(["gateway", "gateway", "kiosk"])
identities = st.integers(0, len(IDENTITIES[NAMES[0]]) - 1)
some_names = st.lists(names, min_size=1, max_size=5)

of_keys = st.tuples(st.sampled_from(["provision", "rotate", "revoke"]), keys)
of_policy = st.tuples(st.just("publish"), kinds, st.booleans())
of_devices = st.one_of(
    st.tuples(st.just("retag"), names, kinds),
    st.tuples(st.just("enable"), names, st.booleans()),
    st.tuples(st.just("come_with"), names, identities),
)
of_reports = st.one_of(
    st.tuples(st.sampled_from(["acknowledge", "fail"]), names),
    st.tuples(
        st.just("garble"),
        names,
        st.sampled_from(["device_public_key", "device_cert", "confidential_package_status"]),
        st.sampled_from([None, "AAAA"]),
    ),
)
of_the_hub = st.one_of(
    st.tuples(st.sampled_from(["delete", "rebind"]), names),
    st.tuples(
        st.just("plant"),
        names,
        st.sampled_from(
            [
                {"confidential_package_keys": {"app": "AAAA", "planted": "AAAA"}},
                {"confidential_package_keys": 7},
                {"confidential_package_release": {"v": 2, "cose": "AAAA"}},
            ]
        ),
    ),
    st.tuples(st.just("leap"), st.integers(1, 40)),
)
workers = st.tuples(st.just("work"), some_names)
events = st.one_of(of_keys, of_policy, of_devices, of_reports, of_the_hub, workers, workers)
hooks = st.one_of(
    st.none(),
    st.sampled_from([("throttled",), ("conflict",), ("crash",), ("crash after",)]),
    st.tuples(st.just("event"), events),
)


EDGE = NAMES[0]
NO_CERTIFICATES = ("publish", "gateway", False)
WORK = ("work", NAMES)
CERTIFIED, UNCERTIFIED = 1, 2


@STRESS
@given(st.lists(events, max_size=12), st.lists(hooks, max_size=20))
@example([NO_CERTIFICATES, ("come_with", EDGE, UNCERTIFIED), WORK], [])
@example([("garble", EDGE, "device_public_key", "AAAA"), WORK, ("come_with", EDGE, UNCERTIFIED)], [])
@example([("garble", EDGE, "device_public_key", None), WORK, ("come_with", EDGE, UNCERTIFIED)], [])
@example(
    [
        NO_CERTIFICATES,
        ("come_with", EDGE, UNCERTIFIED),
        ("rebind", EDGE),
        WORK,
        ("come_with", EDGE, CERTIFIED),
        WORK,
        ("come_with", EDGE, UNCERTIFIED),
    ],
    [],
)
@example([("rotate", KEYS[0]), WORK], [("crash",), ("crash after",), ("conflict",), ("throttled",)] * 3)
@example([("come_with", EDGE, CERTIFIED), WORK], [])
@example([("rotate", KEYS[0]), WORK], [None, ("event", ("retag", EDGE, "kiosk"))])
def test_whatever_happens_every_write_holds_and_the_fleet_comes_to_rest(happened, hooked):
    fleet = StressedFleet()
    fleet.provision(KEYS[0])
    fleet.settle()
    fleet.hooks = list(hooked)
    for event in happened:
        fleet.do(event)
    fleet.work(NAMES)
    fleet.settle()

    rules = fleet.rules[fleet.cloud.policy.digest.hex()]
    for name in NAMES:
        if not fleet.truth[name].exists:
            continue
        wrapped, tag = fleet.wrapped(name), fleet.cloud.tag(name)
        if not fleet.may_hold(name, fleet.truth[name], rules):
            assert wrapped == {}
            continue
        released = (
            {key: each.version for key, each in fleet.cloud.release(name).keys.items()} if wrapped else {}
        )
        states = {key: fleet.cloud.store.state(key) for key in fleet.cloud.store.envelopes}
        wanted = {key: state.latest for key, state in states.items() if state.latest >= state.floor}
        assert released == wanted
        assert not wrapped or fleet.bound[name] == fleet.fingerprint(name)
        assert tag is None or tag["state"] in {"released", "quarantined"}

    writes, signatures = len(fleet.hub.writes), fleet.cloud.signer.signatures
    fleet.settle()
    assert (len(fleet.hub.writes), fleet.cloud.signer.signatures) == (writes, signatures)
    reads = fleet.cloud.registry.reads
    assert fleet.cloud.run() == []
    assert len(fleet.hub.writes) == writes
    tags = [fleet.cloud.tag(name) for name in NAMES if fleet.truth[name].exists]
    # Rows do not tell when a report is mended that did not parse: such a device is looked at.
    told = [tag for tag in tags if tag and tag.get("reason") != "report_malformed"]
    assert fleet.cloud.registry.reads - reads <= len(NAMES) - len(told)


@STRESS
@given(
    st.lists(st.one_of(of_keys, of_devices), max_size=12),
    st.lists(st.one_of(st.none(), some_names), max_size=12),
    st.lists(hooks.filter(lambda hook: hook is None or hook[0] != "event"), max_size=12),
)
def test_the_end_does_not_depend_on_when_in_which_order_or_how_often_devices_are_looked_at(
    happened, looked_at, hooked
):
    """Under a policy that asks for certificates; else the first key that comes is the one that is bound."""
    often, once = StressedFleet(), StressedFleet()
    often.hooks = list(hooked)
    for number, event in enumerate(happened):
        often.do(event)
        once.do(event)
        if number < len(looked_at) and looked_at[number] is not None:
            often.work(looked_at[number])
    often.settle()
    once.settle()
    assert [often.outcome(name) for name in NAMES] == [once.outcome(name) for name in NAMES]


@STRESS
@given(st.lists(events, max_size=6), st.lists(events, max_size=4), some_names, st.sampled_from(KEYS))
def test_removal_follows_revocation_also_where_a_worker_knows_of_none(before, between, late, key):
    """A worker looks at the class keys; they are revoked and taken away; then it goes on with its page."""
    fleet = StressedFleet()
    fleet.provision(key)
    for event in before:
        fleet.do(event)
    fleet.settle()
    registry = fleet.cloud.registry
    registry.level += 1
    stale = fleet.cloud.distributor.begin_pass(correlation_id="stale")
    fleet.do(("revoke", key))
    fleet.settle()
    for event in between:
        if event[0] not in {"provision", "rotate", "delete", "plant"}:
            fleet.do(event)
    there = [name for name in NAMES if fleet.truth[name].exists]
    assert all(key not in fleet.wrapped(name) for name in there)
    taken_away = [name for name in there if fleet.bound[name] is not None]
    assert stale.reconcile_all(late) == []
    registry.level -= 1
    assert all(key not in fleet.wrapped(name) for name in taken_away)
    # Who came in between, and was served by what the worker knew, is found by the next pass.
    assert fleet.cloud.run() == []
    assert all(key not in fleet.wrapped(name) for name in there)
