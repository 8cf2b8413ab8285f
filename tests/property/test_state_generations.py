"""Generations of the state: whatever is cut off, fails or is put back, no acknowledged state is undone.

The attacker keeps a copy of every state file that was ever written, cuts the power when he likes, lets the
counter fail when he likes, and puts any copy in place before a start.
"""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulators.counting_custody import CountingCustody, PowerCut

from cpm.state import State
from cpm.state_file import STATE_FILE, StateFile
from shared.errors import TransportError, VerificationError
from shared.types import Audience, DeviceId

IDENTITY = {"audience": Audience("test"), "device_id": DeviceId("edge-01")}
EFFECTS_OF_A_SAVE = 3  # before the write, before the count, after it
EFFECTS_OF_TWO = 2 * EFFECTS_OF_A_SAVE
WRITTEN_ONLY = 1  # effects: the state is on disk, and not counted


@dataclass
class Machine:
    """A device and its attacker."""

    folder: Path
    custody: CountingCustody = field(default_factory=lambda: CountingCustody(fresh=True))
    copies: list[bytes] = field(default_factory=list)
    file: StateFile | None = None
    number: int = 0
    acknowledged: int = 0

    @property
    def path(self) -> Path:
        return self.folder / STATE_FILE

    def start(self, put_back: int | None, cut: int | None) -> None:
        """Start with the newest file or a copy of any; what is accepted is no older than acknowledged."""
        self.file = None
        newest = self.path.read_bytes() if self.path.exists() else None
        if put_back is not None and self.copies:
            self.path.write_bytes(self.copies[put_back % len(self.copies)])
        try:
            self.custody.power.cut_after(cut)
            self.file = StateFile.open(self.folder, self.custody, **IDENTITY)
        except PowerCut:
            pass
        except VerificationError as error:
            if error.code != "rollback" or put_back is None:
                raise  # the newest state is always accepted
            self.path.write_bytes(newest)
        finally:
            self.custody.power.cut_after(None)
            self._copy()
        if self.file is not None:
            assert self.file.state.sequence >= self.acknowledged
            # What was accepted is in force: the cloud sees it in the next status.
            self.acknowledged = self.file.state.sequence

    def save(self, cut: int | None, fail: int | None) -> None:
        """Save the next state; it counts as acknowledged once the save has returned."""
        if self.file is None:
            return
        self.number += 1
        try:
            if cut is not None:
                self.custody.power.cut_after(cut)
            else:
                self.custody.power.fail_after(fail)
            self.file.save(replace(self.file.state, sequence=self.number))
            self.acknowledged = self.number
        except PowerCut:
            self.file = None
        except TransportError:
            assert self.file.state.sequence == self.acknowledged
        finally:
            self.custody.power.cut_after(None)
            self._copy()

    def put_back(self, copy: bytes, cut: int | None = None) -> bool:
        """Start with a copy; return whether it was accepted."""
        self.start(self.copies.index(copy), cut)
        return self.file is not None

    def _copy(self) -> None:
        content = self.path.read_bytes() if self.path.exists() else None
        if content is not None and content not in self.copies:
            self.copies.append(content)


effects = st.none() | st.integers(0, EFFECTS_OF_TWO + EFFECTS_OF_A_SAVE)
starts = st.tuples(st.just("start"), st.none() | st.integers(-4, -1), effects)
saves = st.tuples(st.just("save"), effects, effects)


@settings(max_examples=120, deadline=None)
@given(st.lists(starts | saves, min_size=2, max_size=14))
def test_no_acknowledged_state_is_ever_undone_and_the_newest_always_starts(steps):
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        machine.start(None, None)
        for step, one, other in steps:
            getattr(machine, step)(one, other)
        machine.start(None, None)
        assert machine.file is not None


@pytest.fixture
def attacked(tmp_path):
    """A machine whose newest state was acknowledged, and the attacker's two copies: of it and of a rival.

    The rival was written as the next generation, and the power was cut before it was counted.
    """
    machine = Machine(tmp_path)
    machine.start(None, None)
    machine.save(None, None)
    acknowledged = machine.path.read_bytes()
    machine.save(WRITTEN_ONLY, None)
    return machine, acknowledged, machine.path.read_bytes()


def test_a_state_that_was_cut_off_does_not_undo_what_came_instead(attacked):
    machine, acknowledged, rival = attacked
    machine.put_back(acknowledged)
    machine.save(None, None)

    for old in (acknowledged, rival):
        assert not machine.put_back(old)
    machine.start(None, None)
    assert machine.file.state.sequence == machine.acknowledged


def test_a_start_that_was_cut_off_does_not_undo_the_state_that_was_started_instead(attacked):
    machine, acknowledged, rival = attacked
    machine.put_back(acknowledged, cut=WRITTEN_ONLY)
    cut_off = machine.path.read_bytes()
    assert machine.put_back(rival)

    for old in (acknowledged, rival, cut_off):
        assert not machine.put_back(old)


def test_without_a_counter_an_old_copy_is_accepted(tmp_path):
    custody = CountingCustody(fresh=True)
    custody.counter = None
    file = StateFile.open(tmp_path, custody, **IDENTITY)
    old = (tmp_path / STATE_FILE).read_bytes()
    file.save(State(**IDENTITY, sequence=7))
    (tmp_path / STATE_FILE).write_bytes(old)

    assert StateFile.open(tmp_path, custody, **IDENTITY).state.sequence == 0
