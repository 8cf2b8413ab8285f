"""Open a package as the command line says: its key, whom to trust, and a progress bar."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cpk_tool.class_keys import KeySource, client_problems
from cpk_tool.progress import progress
from cpk_tool.verification_options import verification_from, verification_problems
from shared.cpk.opening import OpenedPackage, open_package

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path


def opening_problems(options: argparse.Namespace) -> list[str]:
    """Return what is wrong with the options that say how to open a package, one line each."""
    return verification_problems(options) + client_problems(options)


def open_verified(
    options: argparse.Namespace, path: Path, sink: Callable[[memoryview], object]
) -> OpenedPackage:
    """Verify a package and give its payload to ``sink``, which has nothing of worth until this returns.

    Raises:
        EdbError: As for :func:`shared.cpk.opening.open_package`, or a key or certificate cannot be had.
        OSError: A file cannot be read.
    """
    keys = KeySource.of(options)
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        verification = verification_from(options, file)
        with progress(path.name, size) as bar:

            def take(chunk: memoryview) -> None:
                sink(chunk)
                if bar is not None:
                    bar.add(len(chunk))

            return open_package(
                file,
                size,
                class_key=keys.to_open,
                trust=verification.trust,
                at=verification.at,
                requirements=verification.requirements,
                sink=take,
            )
