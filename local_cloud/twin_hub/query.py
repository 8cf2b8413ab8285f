"""Runs twin queries, page by page.

Rows come in the order of their keys. The continuation of a plain query is the last key that was looked at, so
that devices which come and go between two pages are neither told twice nor passed over; the continuation of a
grouped query is a count. It is bound to its query and means nothing to any other.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from local_cloud.twin_hub.query_parser import parse_query
from local_cloud.twin_hub.query_values import UNDEFINED, aggregate, bad_query
from shared import strict_json
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from local_cloud.twin_hub.documents import Json
    from local_cloud.twin_hub.query_parser import Query
    from shared.types import DeviceId

MAX_PAGE = 1000
"""Rows of a page."""


class ItemType(enum.Enum):
    """What a page's rows are, in ``x-ms-item-type``."""

    TWIN = "Twin"
    RAW = "Raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a query's result; without a continuation it is the last one."""

    items: Sequence[Json]
    item_type: ItemType
    continuation: str | None


def run_query(
    text: str,
    *,
    keys: Sequence[DeviceId],
    row: Callable[[DeviceId], Json],
    page_size: int,
    continuation: str | None,
) -> Page:
    """Return one page of a query's result.

    Args:
        text: The query.
        keys: All identities, sorted.
        row: Returns an identity's twin as the service writes it.
        page_size: Rows of the page, 1 to :data:`MAX_PAGE`.
        continuation: What the page before said.

    Raises:
        HubError: ``ArgumentInvalid``: the query or the continuation cannot be understood.
    """
    query = parse_query(text)
    mark = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
    start = _Position() if continuation is None else _parse_continuation(continuation, mark)
    of_modules = query.collection == "devices.modules"
    keys = [key for key in keys if ("/" in key) is of_modules]
    run = _grouped_page if query.is_grouped else _plain_page
    items, position = run(query, keys, row, start, page_size)
    return Page(
        items=items,
        item_type=ItemType.TWIN if query.columns is None else ItemType.RAW,
        continuation=None if position is None else _write_continuation(position, mark),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Position:
    """Where a page starts: after a key, and after so many rows of the whole result."""

    after: str = ""
    rows: int = 0


def _plain_page(
    query: Query, keys: Sequence[DeviceId], row: Callable[[DeviceId], Json], start: _Position, page_size: int
) -> tuple[list[Json], _Position | None]:
    wanted = page_size if query.top is None else min(page_size, query.top - start.rows)
    items: list[Json] = []
    last = start.after
    for key in keys[bisect_right(keys, start.after) :]:
        if len(items) >= wanted:
            rows = start.rows + len(items)
            more = query.top is None or rows < query.top
            return items, _Position(after=last, rows=rows) if more else None
        last, twin = key, row(key)
        if query.condition is None or query.condition(twin) is True:
            items.append(twin if query.columns is None else _project(query, [twin]))
    return items, None


def _grouped_page(
    query: Query, keys: Sequence[DeviceId], row: Callable[[DeviceId], Json], start: _Position, page_size: int
) -> tuple[list[Json], _Position | None]:
    # Without GROUP BY everything is one group, also when it is nothing.
    groups: dict[str, list[Json]] = {} if query.groups else {_group(query, {}): []}
    for twin in _selected(query, keys, row):
        groups.setdefault(_group(query, twin), []).append(twin)
    results = [_project(query, twins) for twins in islice(groups.values(), query.top)]
    end = start.rows + page_size
    return results[start.rows : end], _Position(rows=end) if end < len(results) else None


def _selected(query: Query, keys: Sequence[DeviceId], row: Callable[[DeviceId], Json]) -> Iterator[Json]:
    for key in keys:
        twin = row(key)
        if query.condition is None or query.condition(twin) is True:
            yield twin


def _project(query: Query, twins: Sequence[Json]) -> Json:
    """Return the result row for one twin, or for a group of them."""
    result: Json = {}
    for column in query.columns or ():
        if column.aggregate is not None:
            value = aggregate(column.aggregate, column.expression, twins)
        else:
            value = column.expression(twins[0]) if twins else UNDEFINED
        if value is not UNDEFINED:
            result[column.name] = value
    return result


def _group(query: Query, twin: Json) -> str:
    """Return what tells a twin's group from the others."""
    return json.dumps([_known(expression(twin)) for expression in query.groups], sort_keys=True)


def _known(value: object) -> object:
    """Return a value for telling groups apart: undefined is a group of its own."""
    return [] if value is UNDEFINED else [value]


def _write_continuation(position: _Position, mark: str) -> str:
    return base64.b64encode(json.dumps([mark, position.after, position.rows]).encode()).decode("ascii")


def _parse_continuation(text: str, mark: str) -> _Position:
    try:
        said = strict_json.loads(base64.b64decode(text, validate=True), where="continuation")
    except (binascii.Error, ValueError, FormatError) as error:
        raise bad_query("the continuation is none of this hub's") from error
    match said:
        case [str(found), str(after), int(rows)] if found == mark and rows >= 0:
            return _Position(after=after, rows=rows)
    raise bad_query("the continuation is another query's")
