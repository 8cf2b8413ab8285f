"""Every file that the fuzzer found worth keeping, again: the reader raises its own errors and no other."""

import hashlib

import pytest
from fuzz.hostile_package import CORPUS, MAX_BYTES, Outcome, read_hostile

FILES = sorted(CORPUS.iterdir())


def test_the_corpus_is_small_and_reaches_every_outcome():
    outcomes = {read_hostile(path.read_bytes()) for path in FILES}

    assert outcomes == set(Outcome)
    assert all(path.stat().st_size <= MAX_BYTES for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name[:12])
def test_hostile_bytes_are_refused_by_the_readers_own_errors_alone(path):
    assert read_hostile(path.read_bytes()) in Outcome


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name[:12])
def test_a_file_is_named_by_its_content(path):
    assert path.name == hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
