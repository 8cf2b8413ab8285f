"""Holders: which devices hold a class key or were given it, and which version.

The hub picks them out and tells a few columns of each: no twin is read, and no release verified. What a
device reports is its own word.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from functions.contract import Call, Contract, HttpFunctions, Tag
from functions.paging import text_of, token_of_query
from shared.errors import FormatError
from shared.rollout import bucket
from shared.types import MAX_KEY_VERSION, parse_device_id, parse_key_name
from shared.wire import values
from shared.wire.rollout import HolderDescription, HolderPage, HoldersQuery

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.services import Services
    from shared.twin.ports import HolderRow
    from shared.types import KeyName

_LOG = logging.getLogger(__name__)

HOLDERS = Contract(
    name="Holders",
    method="GET",
    route="keys/{key_name}/holders",
    tag=Tag.READING,
    summary="Devices and modules that hold a class key or were given it, page by page",
    path={"key_name": values.KEY_NAME},
    query=HoldersQuery,
    answer=HolderPage,
    problems=("name_invalid", "token_invalid"),
)


def blueprint(services: Callable[[], Services]) -> HttpFunctions:
    """Return the function.

    Args:
        services: Puts the services together at the first call.
    """
    functions = HttpFunctions()

    @functions.serve(HOLDERS)
    def holders(call: Call) -> HolderPage:
        name = parse_key_name(call.route.get("key_name"), where="route")
        return _holders(services(), name, HoldersQuery.parse(call.query))

    return functions


def _holders(services: Services, name: KeyName, asked: HoldersQuery) -> HolderPage:
    with token_of_query(asked.token):
        page = services.registry.holders(
            name, token=asked.token, size=asked.page_size, version=asked.version, state=asked.state
        )
    described = (describe_holder(row) for row in page.rows)
    return HolderPage(
        holders=tuple(each for each in described if each is not None), next_token=page.next_token
    )


def describe_holder(row: HolderRow) -> HolderDescription | None:
    """Return what is told of a device; None if the hub could not have such a one.

    Args:
        row: As the hub tells it; hostile.
    """
    try:
        device_id = parse_device_id(row.device_id, where="twin query")
    except FormatError as error:
        _LOG.warning("device_id_unreadable", extra={"detail": str(error)})
        return None
    report: Mapping[str, object] = row.report if isinstance(row.report, Mapping) else {}
    return HolderDescription(
        device_id=device_id,
        bucket=bucket(device_id),
        given_at=text_of(row.given_at),
        staged=_version(row.staged, lowest=1),
        version=_version(report.get("ver"), lowest=0),
        state=text_of(report.get("state")),
        error=text_of(report.get("error")),
        outcome=text_of(row.outcome),
    )


def _version(value: object, *, lowest: int) -> int | None:
    return value if type(value) is int and lowest <= value <= MAX_KEY_VERSION else None
