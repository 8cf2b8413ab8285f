"""The progress bar: what it shows, and that nothing is drawn where nobody looks."""

import io
import os
import pty
import select

import pytest

from cpk_tool.progress import ProgressBar, progress, reading, watching


class Clock:
    """Goes forward when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A terminal whose width is not known."""

    def isatty(self):
        return True

    def lines(self):
        return self.getvalue().replace("\x1b[K", "").split("\r")[1:]


def test_the_bar_shows_share_rate_and_time_left():
    clock, terminal = Clock(), Terminal()
    bar = ProgressBar("app.bin", 4_000_000_000, terminal=terminal, clock=clock)

    clock.now = 1.0
    bar.add(1_000_000_000)

    assert terminal.lines() == ["app.bin  [######..................]   25%  1.0 GB/s  3 s left"]


def test_the_bar_is_drawn_a_few_times_a_second_and_not_for_every_chunk():
    clock, terminal = Clock(), Terminal()
    bar = ProgressBar("x", 1000, terminal=terminal, clock=clock)

    for step in range(1000):
        clock.now = step / 1000
        bar.add(1)

    assert len(terminal.lines()) == 10


def test_more_than_everything_is_everything():
    terminal = Terminal()

    ProgressBar("x", 10, terminal=terminal, clock=Clock()).add(11)

    assert "100%" in terminal.lines()[0]


def test_a_name_cannot_command_the_terminal():
    terminal = Terminal()

    ProgressBar("a\x1b[2J", 10, terminal=terminal, clock=Clock()).add(1)

    assert "a\\x1b[2J" in terminal.lines()[0]


def test_the_line_is_taken_away_at_the_end_and_after_an_error():
    terminal = Terminal()

    def fail():
        with progress("x", 10, terminal=terminal) as bar:
            bar.add(5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_nothing_is_drawn_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")

    with progress("x", 10, terminal=io.StringIO()) as bar, progress("x", 10, terminal=Terminal()) as dumb:
        assert bar is None
        assert dumb is None


def test_a_file_that_nobody_watches_is_read_as_it_is(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    with (tmp_path / "f").open("rb", buffering=0) as file, reading(file, "f", 1) as counted:
        assert counted is file


class RealTerminal:
    """A terminal of the system's, and what somebody in front of it sees."""

    def __init__(self, master, stream):
        self.stream = stream
        self._master = master

    def wait_for(self, text):
        """Read until ``text`` has been shown."""
        shown = b""
        while text not in shown:
            assert select.select([self._master], [], [], 30)[0], f"not shown: {text}"
            shown += os.read(self._master, 4096)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream:
        yield RealTerminal(master, stream)
    os.close(master)


def test_reading_a_file_on_a_terminal_moves_the_bar_and_gives_the_same_bytes(tmp_path, terminal, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal.stream)
    path = tmp_path / "f"
    path.write_bytes(bytes(range(256)) * 10)

    with path.open("rb", buffering=0) as file, reading(file, "f", 2560) as counted:
        room = memoryview(bytearray(2560))
        filled = counted.readinto(room[:100])
        assert (filled, counted.tell(), counted.fileno()) == (100, 100, file.fileno())
        assert counted.seek(1) == 1
        assert counted.readinto(room) == 2559

    assert bytes(room[:2559]) == path.read_bytes()[1:]
    terminal.wait_for(b"f  [")


def test_another_processes_reading_moves_the_bar(tmp_path, terminal, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal.stream)
    path = tmp_path / "f"
    path.write_bytes(bytes(1000))

    with path.open("rb", buffering=0) as file, watching(file, "f", 1000):
        file.read(500)
        terminal.wait_for(b"50%")
