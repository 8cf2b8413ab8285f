"""Handing the desired keys to the CPM, and what to report of it (protocol sections 4 and 6).

The CPM alone judges a release. The agent only tells its answers apart: taken, refused for good, or worth
trying again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from device_agent.report import reported_code
from shared.errors import EdbError, FormatError, StorageError, TransportError
from shared.release.document import parse_release
from shared.twin.documents import DesiredKeys, KeyReport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from device_agent.cpm_client import AppliedRelease, CpmClient
    from shared.types import KeyName


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the CPM made of a desired set.

    Args:
        errors: For each class key that it did not take, why.
        applied: Its answer to a release that it took; None for keys of version 1 of the protocol.
        refusal: The last error, if there was one.
        again: Whether the same set may be taken later: the disk was full, or the CPM itself failed.
    """

    errors: Mapping[KeyName, KeyReport] = field(default_factory=dict)
    applied: AppliedRelease | None = None
    refusal: EdbError | None = None
    again: bool = False


def hand_over(cpm: CpmClient, desired: DesiredKeys) -> Outcome:
    """Give a desired set to the CPM: a release as a whole, or each key of a version 1 set.

    Raises:
        TransportError: ``cpm_unavailable``; hand over again when the CPM is back.
    """
    if desired.release is None:
        return _hand_over_keys(cpm, desired)
    try:
        return Outcome(applied=cpm.apply_release(desired.release, desired.wrapped))
    except TransportError:
        raise
    except EdbError as error:
        return Outcome(errors=failed_keys(desired, error), refusal=error, again=_may_pass(error))


def _hand_over_keys(cpm: CpmClient, desired: DesiredKeys) -> Outcome:
    errors = {}
    last: EdbError | None = None
    again = False
    for name, wrapped in desired.wrapped.items():
        try:
            cpm.install_application_key(name, wrapped)
        except TransportError:
            raise
        except EdbError as error:
            errors[name] = _failed(0, error)
            last, again = error, again or _may_pass(error)
    return Outcome(errors=errors, refusal=last, again=again)


def failed_keys(desired: DesiredKeys, error: EdbError) -> dict[KeyName, KeyReport]:
    """Return the report that none of a set's keys could be taken.

    Each names the version that was meant and the release's sequence, so that the cloud can tell a new failure
    from one that it has seen.
    """
    versions: dict[KeyName, int] = {}
    sequence = None
    if desired.release is not None:
        try:
            release = parse_release(desired.release, where="release").release
        except FormatError:
            pass  # the CPM says so too; the report then names no version
        else:
            versions = {name: key.version for name, key in release.keys.items()}
            sequence = release.sequence
    return {name: _failed(versions.get(name, 0), error, sequence=sequence) for name in desired.wrapped}


def made_for(desired: DesiredKeys, fingerprint: bytes) -> bool:
    """Say whether a set states, unverified, that it is for this device key; one of version 1 never does."""
    if desired.release is None:
        return False
    try:
        return parse_release(desired.release, where="release").release.fingerprint == fingerprint
    except FormatError:
        return False


def _failed(version: int, error: EdbError, *, sequence: int | None = None) -> KeyReport:
    return KeyReport(version=version, state="error", error=reported_code(error), sequence=sequence)


def _may_pass(error: EdbError) -> bool:
    return isinstance(error, StorageError) or error.code == EdbError.default_code
