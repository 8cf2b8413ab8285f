"""The twin queries that pick out who holds a class key, in the hub's query language.

It has no parameters, so what goes into a query is checked here once more: a class key's name stands in
``[[ ]]``, which takes any name but ``]``, and everything else is a number or one of our own words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from shared.errors import FormatError
from shared.twin.documents import KEYS, OUTCOME_TAG, STATUS
from shared.twin.held import ROLLOUT
from shared.twin.ports import HolderRow
from shared.types import parse_key_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.types import KeyName

_WORD = re.compile(r"[a-z]{1,16}")
_SOURCES = (
    ("devices", "devices", "deviceId AS deviceId"),
    ("modules", "devices.modules", "deviceId AS deviceId, moduleId AS moduleId"),
)


def holder_queries(name: KeyName, *, version: int | None, state: str | None) -> Mapping[str, str]:
    """Return the queries for devices and for modules, by what they are for.

    Args:
        name: The class key's.
        version: Only who reports this version, or was given it as a staged one.
        state: Only who reports this of it.

    Raises:
        FormatError: An argument is not what it should be.
    """
    quoted = f"[[{parse_key_name(name, where='query')}]]"
    report = f"properties.reported.{STATUS}.keys.{quoted}"
    given = f"properties.desired.$metadata.{KEYS}.{quoted}.$lastUpdated"
    staged = f"tags.{OUTCOME_TAG}.{ROLLOUT}.{quoted}"
    condition = f"(is_defined({report}) OR is_defined(properties.desired.{KEYS}.{quoted}))"
    if version is not None:
        condition += f" AND ({report}.ver = {int(version)} OR {staged} = {int(version)})"
    if state is not None:
        if not _WORD.fullmatch(state):
            raise FormatError("state: expected a word of a-z")
        condition += f" AND {report}.state = '{state}'"
    columns = f"{given} AS given, {staged} AS staged, {report} AS report, tags.{OUTCOME_TAG}.state AS outcome"
    return {
        source: f"SELECT {names}, {columns} FROM {collection} WHERE {condition}"  # noqa: S608 - checked above
        for source, collection, names in _SOURCES
    }


def read_holder(row: Mapping[str, object]) -> HolderRow:
    """Return a row of :func:`holder_queries`, unchecked."""
    device, module = row.get("deviceId"), row.get("moduleId")
    return HolderRow(
        device_id=device if module is None else f"{device}/{module}",
        given_at=row.get("given"),
        staged=row.get("staged"),
        report=row.get("report"),
        outcome=row.get("outcome"),
    )
