"""Power may go after every write, rename and fsync: the next start finds the state before or after, no third.

A device's life is recorded on a disk that knows what is safe. After every step every content that a power cut
may leave is laid out, and a CPM started from it. Then the same life is led again for every call that the disk
may refuse.
"""

import os
import time
from collections import defaultdict
from dataclasses import dataclass, replace

import pytest
from simulators.power_cut import Recording, lay_out, read_back
from simulators.releasing_cloud import CP_ID, NAME, ReleasingCloud

from cpm import packages
from cpm.state import encode_state
from shared.errors import StorageError, VerificationError
from shared.types import Secret

MARK = b"PAYLOAD-IN-CLEAR"
NOW = int(time.time())
FIRST_START = 0


@dataclass(frozen=True)
class Seen:
    """What a device holds, without what is random: its state, and the payload of every package."""

    state: bytes
    latched: bool
    payloads: tuple[tuple[str, bytes], ...]


def see(device):
    state = device.state_file.state
    named = {
        cp_id: replace(package, file="", file_key=Secret(b"")) for cp_id, package in state.packages.items()
    }
    return Seen(
        state=encode_state(replace(state, release_digest=None, packages=named)),
        latched=state.latched_v2,
        payloads=tuple((cp_id, payload_of(device, cp_id)) for cp_id in sorted(state.packages)),
    )


def payload_of(device, cp_id):
    with device.store.open(packages.sealed_file(device.state_file.state.packages[cp_id])) as reader:
        return b"".join(reader.segments())


class Life:
    """A device from its first start on, one operation after the other; on an error it goes on with the next.

    Every operation may be done again, which is what a client does that was told of an error.
    """

    def __init__(self, root, cloud, power_up, vendor):
        self.recording = Recording(root)
        self.cloud = cloud
        self.vendor = vendor
        self.device = None
        self.drafts = []
        self._power_up = power_up

    def operations(self):
        return {
            "first start": self.start,
            "first release": lambda: self.release(1, {NAME: 1}),
            "install": lambda: self.install((1, 0, 0)),
            "another release": lambda: self.release(2, {NAME: 2, "other": 1}, floors={"other": 1}),
            "replace": lambda: self.install((1, 1, 0), key_version=2),
            "install another": lambda: self.install((7, 0, 0), cp_id="another", key_version=2),
            "refused package": self.install_broken,
            "start after a crash": self.crash_and_start,
            "uninstall": lambda: self.device.call("uninstall", cp_id=CP_ID),
            "start": self.start,
        }

    def start(self):
        self.device = self._power_up(self.recording.root, self.cloud)

    def release(self, sequence, keys, floors=None):
        self.device.apply(sequence=sequence, keys=keys, floors=floors, issued_at=NOW, lease_seconds=86400)

    def install(self, version, key_version=1, **more):
        payload = MARK * (version[1] + 10)
        class_key = self.cloud.class_key(NAME, key_version)
        package = self.vendor.package(payload, class_key, version=version, key_version=key_version, **more)
        with self.passed(package) as fd:
            self.device.call("install", fds=(fd.fileno(),))

    def install_broken(self):
        package = self.vendor.package(
            MARK * 10, self.cloud.class_key(NAME, 2), version=(9, 0, 0), key_version=2
        )
        place = 16 + 16 * 9 + 10
        package = package[:place] + bytes([package[place] ^ 1]) + package[place + 1 :]
        with pytest.raises((VerificationError, StorageError)), self.passed(package) as fd:
            self.device.call("install", fds=(fd.fileno(),))

    def crash_and_start(self):
        """Leave a draft and a finished file that no state names, as a process that is killed does."""
        draft = self.device.store.create()
        draft.write(memoryview(MARK))
        self.drafts.append(draft)
        with self.device.store.create() as writer:
            writer.finish()
        self.start()

    def passed(self, package):
        path = self.recording.root.parent / "passed"
        path.write_bytes(package)
        return path.open("rb")

    def close(self):
        for draft in self.drafts:
            os.close(draft._fd)


@pytest.fixture
def cloud():
    return ReleasingCloud()


@pytest.fixture
def lead_life(tmp_path, cloud, power_up, vendor):
    lives = []

    def begin():
        root = tmp_path / f"life-{len(lives)}" / "disk"
        root.mkdir(parents=True)
        lives.append(Life(root, cloud, power_up, vendor))
        return lives[-1]

    yield begin
    for life in lives:
        life.close()


@pytest.fixture
def restart(tmp_path, cloud, power_up, monkeypatch):
    """Start a CPM on what a power cut left, and return what it holds; the same disk is started once."""
    known = {}
    monkeypatch.setattr(os, "fsync", lambda _fd: None)  # what is laid out here need not last

    def start(image):
        key = frozenset(image.items())
        if key not in known:
            for path, content in image.items():
                assert content is None or MARK not in content, path
                assert not any(one.reveal() in (content or b"") for one in cloud.class_keys.values()), path
            root = tmp_path / f"cut-{len(known)}"
            root.mkdir()
            lay_out(image, root)
            device = power_up(root, cloud)
            named = {package.file for package in device.state_file.state.packages.values()}
            assert {path.name for path in (root / "state" / "packages").iterdir()} == named
            known[key] = see(device)
        return known[key]

    start.disks = known
    return start


def test_after_every_power_cut_the_next_start_finds_the_old_state_or_the_new(lead_life, restart):
    life = lead_life()
    ends, seen = [], []
    with life.recording.running():
        for operation in life.operations().values():
            operation()
            ends.append(len(life.recording.steps))
            seen.append(see(life.device))
    assert life.recording.everything_kept() == read_back(life.recording.root)
    empty = seen[FIRST_START]

    outcomes = defaultdict(set)
    cuts = 0
    for cut in range(len(life.recording.steps) + 1):
        done = [number for number, end in enumerate(ends) if end <= cut]
        before = seen[done[-1]] if done else empty
        if cut in ends:
            allowed, name = {before}, None
        else:
            number = len(done)
            allowed, name = {before, seen[number]}, list(life.operations())[number]
        for image in life.recording.images(cut):
            cuts += 1
            found = restart(image)
            assert found in allowed, f"step {cut}, {name}: {life.recording.steps[cut - 1]}"
            outcomes[name].add(found)

    for name in ("first release", "install", "another release", "replace", "uninstall"):
        assert len(outcomes[name]) == 2, f"{name}: the cuts should show both states"
    assert len(life.recording.steps) > 60
    assert cuts > 300
    assert len(restart.disks) > 150


def test_key_that_was_told_is_the_key_after_every_power_cut(lead_life, tmp_path, cloud, power_up):
    life = lead_life()
    with life.recording.running():
        life.start()
        told = life.device.spki
        first = len(life.recording.steps)
        life.release(1, {NAME: 1})

    for cut in range(first, len(life.recording.steps) + 1):
        for number, image in enumerate(life.recording.images(cut)):
            root = tmp_path / f"cut-{cut}-{number}"
            root.mkdir()
            lay_out(image, root)
            assert power_up(root, cloud).spki == told


def test_whatever_call_the_disk_refuses_the_state_is_the_old_or_the_new(lead_life, restart):
    """Told of an error, the client finds the old state; power may go right then; trying again succeeds."""
    sound = lead_life()
    seen = []
    with sound.recording.running():
        for operation in sound.operations().values():
            operation()
            seen.append(see(sound.device))
    told = set()
    for step in range(len(sound.recording.steps)):
        life = lead_life()
        life.recording.fail_at = step
        for number, (name, operation) in enumerate(life.operations().items()):
            before = seen[max(0, number - 1)]
            if not _is_done(life, operation):
                told.add(name)
                assert number == FIRST_START or see(life.device) == before
                assert _left_by_a_cut(life, restart) <= {before, seen[number]}, (step, name)
                assert _is_done(life, operation)
            assert see(life.device) == seen[number], (step, name)
            assert _left_by_a_cut(life, restart) == {seen[number]}, (step, name)
            if life.recording.fail_at is None:
                break
    assert told >= sound.operations().keys() - {"refused package"}


def _is_done(life, operation):
    with life.recording.running():
        try:
            operation()
        except StorageError:
            return False
    return True


def _left_by_a_cut(life, restart):
    return {restart(image) for image in life.recording.images(len(life.recording.steps))}
