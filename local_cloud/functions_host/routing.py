"""HTTP routes of the functions: templates such as ``items/{id:int?}`` and ``files/{*path}``.

Fixed segments win over parameters, constrained parameters over free ones, and a catch-all comes last.
Matching ignores case and a slash at the end. A parameter's value is percent-decoded, except for ``%2F``,
which would otherwise become a segment's border, as on the platform.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PARAMETER = re.compile(r"\{(\*?)([A-Za-z_][A-Za-z0-9_]*)(?::([A-Za-z]+))?(\?)?\}")
_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()+,;=:@%-]+")
_CONSTRAINTS = {
    "int": r"-?[0-9]{1,10}",
    "long": r"-?[0-9]{1,19}",
    "guid": r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "alpha": r"[A-Za-z]+",
    "bool": r"(?:true|false)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A template with its methods; no methods means every method.

    Attributes:
        function: Name of the function that it leads to.
        template: As the decorator has it, prefix included.
        methods: Upper case.
        pattern: What a path must match.
        shape: The template without its parameters' names: equal shapes collide.
        rank: Lower wins.
    """

    function: str
    template: str
    methods: frozenset[str]
    pattern: re.Pattern[str]
    shape: str
    rank: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Where a request leads.

    Attributes:
        function: The function's name, or ``None`` where the path is known under other methods only.
        parameters: Values of the route's parameters.
        allowed: The methods that the path is known under.
    """

    function: str | None
    parameters: dict[str, str]
    allowed: frozenset[str]


def compile_route(function: str, template: str, methods: Iterable[str], *, prefix: str) -> Route:
    """Read a route template.

    Raises:
        FormatError: A segment or a constraint is not known here.
    """
    full = "/".join(part for part in (prefix, template.strip("/")) if part)
    pattern, shape, rank = "", [], []
    for segment in filter(None, full.split("/")):
        parameter = _PARAMETER.fullmatch(segment)
        if parameter is None:
            if not _LITERAL.fullmatch(segment):
                raise FormatError(
                    f"function {function}: route {full!r}: segment {segment!r} is not understood"
                )
            pattern += "/" + re.escape(segment)
            shape.append(segment.lower())
            rank.append(0)
            continue
        part, order = _parameter(function, full, parameter)
        pattern += part
        shape.append(f"{{{parameter[1]}{parameter[3] or ''}}}")
        rank.append(order)
    return Route(
        function=function,
        template=full,
        methods=frozenset(method.upper() for method in methods),
        pattern=re.compile(pattern + "/?", re.IGNORECASE),
        shape="/".join(shape),
        rank=tuple(rank),
    )


def _parameter(function: str, template: str, parameter: re.Match[str]) -> tuple[str, int]:
    star, name, constraint, optional = parameter.groups()
    if constraint is not None and constraint not in _CONSTRAINTS:
        raise FormatError(
            f"function {function}: route {template!r}: constraint {constraint!r} is not one of "
            f"{', '.join(_CONSTRAINTS)}"
        )
    if star:
        return f"(?:/(?P<{name}>.*))?", 3
    body = f"/(?P<{name}>{_CONSTRAINTS.get(constraint, '[^/]+') if constraint else '[^/]+'})"
    return (f"(?:{body})?" if optional else body), 1 if constraint else 2


class Router:
    """All routes of the app.

    Args:
        routes: In any order.

    Raises:
        FormatError: Two routes would answer the same requests.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = sorted(routes, key=lambda route: (route.rank, route.shape))
        for index, one in enumerate(self._routes):
            for other in self._routes[index + 1 :]:
                common = not one.methods or not other.methods or one.methods & other.methods
                if one.shape == other.shape and common:
                    raise FormatError(
                        f"functions {one.function} and {other.function} have the same route {one.template!r}"
                    )

    def match(self, raw_path: str, method: str) -> Match | None:
        """Return where a request leads, or ``None`` if no route knows the path.

        Args:
            raw_path: The path as it came, percent-encoded, without the query.
            method: Upper case.
        """
        allowed: set[str] = set()
        for route in self._routes:
            found = route.pattern.fullmatch(raw_path)
            if found is None:
                continue
            if not route.methods or method in route.methods:
                parameters = {
                    name: _decoded(value) for name, value in found.groupdict().items() if value is not None
                }
                return Match(function=route.function, parameters=parameters, allowed=route.methods)
            allowed |= route.methods
        return Match(function=None, parameters={}, allowed=frozenset(allowed)) if allowed else None


def _decoded(value: str) -> str:
    return unquote(re.sub("%2f", "%252F", value, flags=re.IGNORECASE))
