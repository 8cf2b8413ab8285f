"""Passphrases: from a file, a descriptor or a terminal, and from nowhere else."""

import os

import pytest

from cpk_tool.output import UsageError
from cpk_tool.passphrase import PassphraseSource


def source(**where):
    return PassphraseSource(what="passphrase of the key", option="--key-passphrase", **where)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"word", b"word"),
        (b"word\n", b"word"),
        (b"word\r\nmore", b"word"),
        (b" a b \n", b" a b "),
        ("pässword\n".encode(), "pässword".encode()),
    ],
)
def test_it_is_the_first_line_of_a_file_or_a_descriptor(tmp_path, content, expected):
    (tmp_path / "p").write_bytes(content)
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)

    assert source(file=tmp_path / "p").ask().reveal() == expected
    assert source(fd=reader).ask().reveal() == expected
    os.close(reader)


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 1025])
def test_none_or_a_long_one_is_refused(tmp_path, content):
    (tmp_path / "p").write_bytes(content)

    with pytest.raises(UsageError, match="expected a line of 1 to 1024 bytes, found"):
        source(file=tmp_path / "p").ask()


def test_a_descriptor_that_is_not_open_is_told():
    with pytest.raises(UsageError, match="--key-passphrase-fd: expected a file descriptor that is open"):
        source(fd=987_654).ask()
