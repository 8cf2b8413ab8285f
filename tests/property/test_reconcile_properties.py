"""Reconciling, whatever happens to a fleet: it settles, it denies, and order does not matter."""

from __future__ import annotations

import copy
import datetime as dt

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulators.cloud import Cloud
from simulators.fleet import Authority, Device, failed

from shared.errors import FormatError
from shared.twin.documents import parse_desired, parse_reported
from shared.types import KeyName

DEVICES = ("edge-01", "edge-02", "edge-03/agent")
KEYS = tuple(KeyName(name) for name in ("app", "my_app", "Other"))
MESSY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class World:
    """A fleet to which anything may happen."""

    def __init__(self) -> None:
        self.cloud = Cloud()
        self.rogue = Authority("rogue CA")
        self.devices = {name: self.cloud.enrol(name) for name in DEVICES}

    def do(self, event: tuple) -> None:
        getattr(self, event[0])(*event[1:])
        self.cloud.wait(seconds=1)

    def provision(self, key):
        if key not in self.cloud.store.envelopes:
            self.cloud.class_keys.provision(key, bits=256)

    def rotate(self, key):
        if key in self.cloud.store.envelopes:
            self.cloud.class_keys.rotate(key)

    def revoke(self, key):
        if key in self.cloud.store.envelopes:
            self.cloud.class_keys.revoke(key, self.cloud.store.state(key).latest)

    def retag(self, name, value):
        tags = {**self.cloud.registry.snapshot(name)["tags"], "class": value}
        self.cloud.registry.overwrite(name, "tags", tags)

    def new_device_key(self, name, kind):
        self.devices[name] = Device.make(self.cloud.authority, name, kind=kind)
        self.cloud.registry.report(name, self.devices[name].report())

    def rogue_certificate(self, name):
        self.cloud.registry.report(name, Device.make(self.rogue, name).report())

    def malformed(self, name, field):
        self.cloud.registry.report(name, {field: "AAAA"})

    def plant(self, name, desired):
        section = {**self.cloud.registry.snapshot(name)["desired"], **desired}
        self.cloud.registry.overwrite(name, "desired", section)

    def acknowledge(self, name):
        try:
            release = self.cloud.release(name)
        except (AssertionError, FormatError):
            return
        self.cloud.registry.report(name, self.devices[name].status(sequence=release.sequence))

    def fail(self, name):
        try:
            release = self.cloud.release(name)
        except (AssertionError, FormatError):
            return
        keys = {key: failed(release, key) for key in release.keys}
        self.cloud.registry.report(name, self.devices[name].status(keys=keys))

    def leap(self, days):
        self.cloud.wait(days=days)

    def reconcile(self):
        assert self.cloud.run(*DEVICES) == []


names = st.sampled_from(DEVICES)
events = st.one_of(
    st.tuples(st.sampled_from(["provision", "rotate", "revoke"]), st.sampled_from(KEYS)),
    st.tuples(st.just("retag"), names, st.sampled_from(["gateway", "kiosk"])),
    st.tuples(st.just("new_device_key"), names, st.sampled_from(["x25519", "p256"])),
    st.tuples(st.sampled_from(["rogue_certificate", "acknowledge", "fail"]), names),
    st.tuples(
        st.just("malformed"),
        names,
        st.sampled_from(["device_public_key", "device_cert", "confidential_package_status"]),
    ),
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
    st.tuples(st.just("reconcile")),
)


def is_gateway(world: World, name: str) -> bool:
    return world.cloud.registry.snapshot(name)["tags"].get("class") == "gateway"


@MESSY
@given(st.lists(events, max_size=12))
def test_the_second_pass_after_anything_writes_nothing(happened):
    world = World()
    for event in happened:
        world.do(event)
    world.reconcile()
    writes, signatures = len(world.cloud.registry.writes), world.cloud.signer.signatures
    world.reconcile()
    assert (len(world.cloud.registry.writes), world.cloud.signer.signatures) == (writes, signatures)


@MESSY
@given(st.lists(events, max_size=12))
def test_nobody_who_is_denied_holds_a_key_and_every_release_is_believed(happened):
    world = World()
    for event in happened:
        world.do(event)
    world.reconcile()
    for name in DEVICES:
        desired = parse_desired(world.cloud.registry.snapshot(name)["desired"])
        tag = world.cloud.tag(name)
        if not is_gateway(world, name) or (tag and tag["state"] == "denied"):
            assert desired.wrapped == {}
        if desired.wrapped:
            release = world.cloud.release(name)
            assert release.keys.keys() == desired.wrapped.keys()
            reported = parse_reported(world.cloud.registry.snapshot(name)["reported"])
            assert release.fingerprint == reported.public_key.fingerprint
            assert release.expires_at > world.cloud.at.timestamp()
            for key, released in release.keys.items():
                state = world.cloud.store.state(key)
                assert released.version == state.latest >= state.floor


@MESSY
@given(st.lists(events, max_size=10))
def test_sequences_only_rise(happened):
    world = World()
    last = dict.fromkeys(DEVICES, 0)
    for event in happened:
        world.do(event)
        world.reconcile()
        for name in DEVICES:
            cose = parse_desired(world.cloud.registry.snapshot(name)["desired"]).release
            sequence = world.cloud.release(name).sequence if cose is not None else last[name]
            assert sequence >= last[name]
            last[name] = sequence


@MESSY
@given(st.lists(events, max_size=8), st.permutations(DEVICES))
def test_the_order_of_devices_does_not_matter(happened, order):
    world = World()
    for event in happened:
        world.do(event)
    before = {name: world.cloud.registry.snapshot(name) for name in DEVICES}

    def outcome(sequence):
        for name, document in before.items():
            world.cloud.registry.restore(name, document)
        assert world.cloud.run(*sequence) == []
        found = {}
        for name in DEVICES:
            desired = parse_desired(world.cloud.registry.snapshot(name)["desired"])
            release = world.cloud.release(name) if desired.release is not None else None
            keys = None if release is None else {key: held.version for key, held in release.keys.items()}
            tag = copy.deepcopy(world.cloud.tag(name))
            found[name] = (keys, set(desired.wrapped), tag)
        return found

    assert outcome(DEVICES) == outcome(order)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "device_public_key",
        "device_cert",
        "confidential_package_status",
        "confidential_package_keys",
        "confidential_package_release",
    ]
)


@given(st.dictionaries(FIELDS, junk))
def test_parsers_raise_nothing_but_format_errors(section):
    for parse in (parse_reported, parse_desired):
        try:
            parse(section)
        except FormatError as error:
            assert str(error)  # noqa: PT017 - any other exception is the failure


@pytest.fixture(scope="module")
def settled():
    cloud = Cloud()
    cloud.class_keys.provision(KEYS[0], bits=256)
    cloud.enrol()
    cloud.run()
    return cloud


@settings(max_examples=60, deadline=None)
@given(reported=st.dictionaries(FIELDS, junk), tags=st.dictionaries(st.text(max_size=8), junk, max_size=3))
def test_a_twin_of_junk_is_decided_about_and_never_given_a_key(settled, reported, tags):
    settled.registry.enrol("junk")
    settled.registry.overwrite("junk", "reported", reported)
    settled.registry.overwrite("junk", "tags", tags)
    assert settled.run("junk") == []
    assert "confidential_package_keys" not in settled.registry.snapshot("junk")["desired"]


def test_time_is_the_only_clock():
    """The same world a second later, nothing else changed, decides the same."""
    world = World()
    world.provision(KEYS[0])
    world.reconcile()
    world.cloud.at += dt.timedelta(seconds=1)
    writes = len(world.cloud.registry.writes)
    world.reconcile()
    assert len(world.cloud.registry.writes) == writes
