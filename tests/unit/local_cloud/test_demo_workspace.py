"""The state folder is emptied only if it is a demo's own, and only while no demo runs there."""

import os
import shlex

import pytest

from local_cloud.demo.workspace import Workspace
from shared.errors import Conflict


@pytest.fixture
def taken(tmp_path):
    workspace = Workspace(root=tmp_path / "state")
    lock = workspace.take()
    workspace.make()
    yield workspace
    os.close(lock)


def test_makes_a_folder_for_each_machine(taken):
    made = {path.name for path in taken.root.iterdir() if path.is_dir()}
    assert made == {"cloud", "build-machine", "devices", "run", "sockets"}
    assert taken.source.is_dir()


def test_a_second_demo_in_the_same_folder_is_refused_and_told_how_to_stop_the_first(taken):
    with pytest.raises(Conflict, match="still running") as refused:
        Workspace(root=taken.root).take()
    assert refused.value.hint == f"stop it with: {taken.stop_command}"


def test_the_command_that_stops_is_ready_for_a_shell(tmp_path):
    words = shlex.split(Workspace(root=tmp_path / "a folder").stop_command)
    assert words[1:] == ["demo", "--stop", "--state", str(tmp_path / "a folder")]
    assert os.access(words[0], os.X_OK)


def test_a_later_demo_starts_from_nothing(taken):
    (taken.cloud / "left.over").touch()
    taken.make()
    assert list(taken.cloud.iterdir()) == []


@pytest.mark.parametrize("name", ["thesis.txt", ".git"])
def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path, name):
    precious = tmp_path / name
    precious.write_text("years of work")
    with pytest.raises(Conflict, match="expected an empty folder"):
        Workspace(root=tmp_path).take()
    assert precious.read_text() == "years of work"
    (tmp_path / name).unlink()
    os.close(Workspace(root=tmp_path).take())  # and it was not left locked


def test_sockets_stand_elsewhere_when_the_path_is_too_long_for_them(tmp_path):
    workspace = Workspace(root=tmp_path / ("long" * 30))
    lock = workspace.take()
    workspace.make()
    elsewhere = workspace.sockets
    assert not elsewhere.is_relative_to(workspace.root)
    assert len(os.fsencode(elsewhere / "edge-01.sock")) < 100
    workspace.make()
    assert not elsewhere.exists()
    workspace.remove_sockets()
    os.close(lock)
