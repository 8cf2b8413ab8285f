"""Fuzz the package reader under coverage guidance (atheris, libFuzzer).

    pip install -e '.[fuzz]'
    python tests/fuzz/fuzz_inspect.py --seconds 600
    python tests/fuzz/fuzz_inspect.py --seconds 600 --keep    # and renew tests/fuzz/corpus

Half of the mutations are of the bytes as they are; the other half take the frame apart, change one stream and
put a fitting table around it again, or most would end at the table. What the reader must never do makes the
program end with a trace and leaves the file in the work folder; it can be given as an argument to repeat it.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["shared", "hostile_package"]):
    from hostile_package import CORPUS, MAX_BYTES, read_hostile, seeds

DICTIONARY = Path(__file__).with_name("manifest.dict")
_HEADER = struct.Struct("<IHHHHHH")
_ENTRY = struct.Struct("<QQ")
_FEWEST_STREAMS, _MOST_STREAMS = 2, 64


def main() -> None:
    """Parse the command line and fuzz."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=600, help="how long; by default 600")
    parser.add_argument("--keep", action="store_true", help="renew the kept corpus afterwards")
    parser.add_argument("--inner", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("file", nargs="*", help="repeat these files instead")
    options = parser.parse_args()
    if options.inner is not None:
        _fuzz(options.inner)
    for file in options.file:
        print(f"{file}: {read_hostile(Path(file).read_bytes()).value}")  # noqa: T201 - a script that tells
    if not options.file:
        sys.exit(_campaign(options.seconds, keep=options.keep))


def _campaign(seconds: int, *, keep: bool) -> int:
    """Fuzz in a process of its own; libFuzzer ends the one it runs in."""
    work = Path(tempfile.mkdtemp(prefix="cpk-fuzz-"))
    found, minimal = work / "found", work / "minimal"
    found.mkdir()
    minimal.mkdir()
    program = work / "fuzz"  # libFuzzer starts itself again to merge, by the name it was given
    again = shlex.join([sys.executable, str(Path(__file__).resolve())])
    program.write_text(f'#!/bin/sh\nexec {again} --inner "$0" "$@"\n')
    program.chmod(0o700)
    for data in seeds():
        (found / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    limits = [f"-max_len={MAX_BYTES}", "-timeout=10", "-rss_limit_mb=2048"]
    run = [
        *limits,
        f"-max_total_time={seconds}",
        f"-dict={DICTIONARY}",
        f"-artifact_prefix={work}/",
        "-print_final_stats=1",
    ]
    status = _inner(program, [*run, str(found), str(CORPUS)])
    if status:
        print(f"the file is in {work}", file=sys.stderr)  # noqa: T201 - as above
        return status
    if keep:
        status = _inner(program, [*limits, "-merge=1", str(minimal), str(CORPUS), str(found)])
        if not status:
            shutil.rmtree(CORPUS)
            shutil.copytree(minimal, CORPUS)
    shutil.rmtree(work)
    return status


def _inner(program: Path, arguments: list[str]) -> int:
    return subprocess.run([program, *arguments], check=False).returncode


def _fuzz(arguments: list[str]) -> None:
    atheris.Setup(arguments, read_hostile, custom_mutator=_mutate)
    atheris.Fuzz()


def _mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Mutate the bytes as they are, or one stream of them."""
    choice = random.Random(seed)
    streams = _streams(data)
    if streams is None or choice.random() < 0.5:
        return atheris.Mutate(data, max_size)
    index = choice.randrange(len(streams))
    if choice.random() < 0.5:  # the manifest is where most is to be found
        index = min(struct.unpack_from("<H", data, 10)[0], len(streams) - 1)
    room = max(1, max_size - sum(map(len, streams)) - _HEADER.size - _ENTRY.size * len(streams))
    streams[index] = atheris.Mutate(streams[index], len(streams[index]) + room)
    return _framed(data[: _HEADER.size], streams)[:max_size]


def _streams(data: bytes) -> list[bytes] | None:
    """Return the streams' bytes, or ``None`` where there is no frame to speak of."""
    if len(data) < _HEADER.size:
        return None
    count = _HEADER.unpack_from(data)[3]
    origin = _HEADER.size + count * _ENTRY.size
    if not _FEWEST_STREAMS <= count <= _MOST_STREAMS or len(data) < origin:
        return None
    entries = _ENTRY.iter_unpack(data[_HEADER.size : origin])
    return [data[origin + offset :][:size] for offset, size in entries]


def _framed(header: bytes, streams: list[bytes]) -> bytes:
    table, offset = b"", 0
    for stream in streams:
        table += _ENTRY.pack(offset, len(stream))
        offset += len(stream)
    return header + table + b"".join(streams)


if __name__ == "__main__":
    main()
