"""``cpm reseal``: approve another state of the platform before it is started, or the one of now alone.

A storage root opens where the PCRs hold what it was sealed to. Before an update that will change them, this
seals it anew: to what they hold now and to what they are expected to hold then, so that the CPM starts before
and after the update, and also if the update is taken back. After it, the same command without expectations
leaves the state of then alone. It opens the storage root itself, so it runs in an approved state only.

The device key, the state and the installed packages stay as they are; one file is replaced atomically.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cpm.custody.choice import PCR_COUNT, TpmChoice
from cpm.hardening import harden
from cpm.settings import custody_of
from cpm.state_file import LockedFolder
from shared.errors import EdbError, FormatError, NotFound, SettingsError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

_EXPECTED = re.compile(r"([0-9]{1,2})=([0-9A-Fa-f]{64})")


def reseal(arguments: argparse.Namespace) -> str:
    """Seal the storage root anew.

    Args:
        arguments: The command line.

    Returns:
        What was done, one line.

    Raises:
        SettingsError: The command line is wrong.
        EdbError: It cannot be done; the folder is as it was.
    """
    choice, expected = _read(arguments)
    from cpm.custody.tpm_device import TpmDevice  # noqa: PLC0415 - an optional package
    from cpm.custody.tpm_files import ROOT_FILE, RootFile  # noqa: PLC0415 - as above
    from cpm.custody.tpm_root import SealedRoot  # noqa: PLC0415 - as above

    path = Path(arguments.state)
    if not path.is_dir():
        raise NotFound(f"{path}: no such state folder")
    harden()
    with LockedFolder.open(path) as folder, contextlib.closing(TpmDevice(choice.tcti)) as device:
        file = RootFile.read(folder.path)
        if file is None:
            raise NotFound(f"{path / ROOT_FILE}: no storage root in a TPM to seal anew")
        root = SealedRoot.open(device, file, where=str(path / ROOT_FILE))
        if choice.pcrs is not None:
            root.pcrs = choice.pcrs
        foreign = sorted({pcr for values in expected for pcr in values} - set(root.pcrs))
        if foreign:
            raise FormatError(f"--expect: PCRs {foreign} are none of those that it is sealed to")
        root.write(folder.path, device, *expected)
    pcrs = ",".join(map(str, root.pcrs)) or "none"
    return f"sealed to PCRs {pcrs} as they are now" + (f", and to {len(expected)} more" if expected else "")


def _read(arguments: argparse.Namespace) -> tuple[TpmChoice, list[Mapping[int, bytes]]]:
    """Read the command line, and tell all that is wrong with it."""
    problems: list[str] = []
    choice = None
    expected: list[Mapping[int, bytes]] = []
    try:
        choice = custody_of(arguments)
    except EdbError as error:
        problems.append(str(error))
    for text in arguments.expect:
        try:
            expected.append(_expected(text))
        except EdbError as error:
            problems.append(str(error))
    if choice is not None and not isinstance(choice, TpmChoice):
        problems.append(
            f"--custody: expected tpm2[:TCTI], found {choice.name}: nothing else is sealed to PCRs"
        )
    if problems or not isinstance(choice, TpmChoice):
        raise SettingsError(problems)
    return choice, expected


def _expected(text: str) -> Mapping[int, bytes]:
    values: dict[int, bytes] = {}
    for part in text.split(","):
        found = _EXPECTED.fullmatch(part)
        if found is None or int(found[1]) >= PCR_COUNT or int(found[1]) in values:
            raise FormatError("--expect: expected N=HEX with PCRs of 0 to 23, each once, and 64 hex digits")
        values[int(found[1])] = bytes.fromhex(found[2])
    return values
