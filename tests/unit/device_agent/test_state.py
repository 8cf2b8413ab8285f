import stat

import pytest

from device_agent.state import AgentState, StateFolder
from shared.errors import Conflict, StorageError

KNOWN = AgentState(fingerprint=bytes(range(32)), sequence=1_790_000_000_000)


def test_what_was_saved_is_loaded_by_the_next_agent(tmp_path):
    with StateFolder(tmp_path / "deep" / "state") as state:
        assert state.load() == AgentState()
        state.save(KNOWN)

    with StateFolder(tmp_path / "deep" / "state") as state:
        assert state.load() == KNOWN
    assert stat.S_IMODE((tmp_path / "deep" / "state").stat().st_mode) == 0o700


def test_second_agent_on_one_state_is_refused(tmp_path):
    with StateFolder(tmp_path) as state:
        with pytest.raises(Conflict) as caught:
            StateFolder(tmp_path)
        state.save(KNOWN)

    assert caught.value.code == "already_running"
    with StateFolder(tmp_path) as state:
        assert state.load() == KNOWN


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"fingerprint": "00", "sequence": 1}',
        b'{"fingerprint": 7, "sequence": 1}',
        b'{"fingerprint": null, "sequence": -1}',
        b'{"fingerprint": null, "sequence": true}',
        b'{"fingerprint": null, "sequence": 1, "sequence": 2}',
        b" " * 5000,
    ],
)
def test_damaged_file_is_forgotten(tmp_path, caplog, damage):
    (tmp_path / "agent.json").write_bytes(damage)

    with StateFolder(tmp_path) as state:
        assert state.load() == AgentState()

    assert [record.getMessage() for record in caplog.records] == ["state_damaged"]


def test_save_that_was_broken_off_leaves_the_old_state(tmp_path):
    with StateFolder(tmp_path) as state:
        state.save(KNOWN)
        (tmp_path / "agent.json.new").write_bytes(b'{"finger')
        assert state.load() == KNOWN
        state.save(AgentState(sequence=5))
        assert state.load() == AgentState(sequence=5)


def test_folder_that_cannot_be_made_is_told_of(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StorageError, match="file"):
        StateFolder(tmp_path / "file" / "state")


def test_save_that_the_disk_refuses_keeps_what_was_there(tmp_path):
    with StateFolder(tmp_path) as state:
        state.save(KNOWN)
        (tmp_path / "agent.json.new").mkdir()  # stands in for a disk that takes no file

        with pytest.raises(StorageError):
            state.save(AgentState(sequence=5))
        assert state.load() == KNOWN
    assert list((tmp_path / "agent.json.new").iterdir()) == []
