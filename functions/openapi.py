"""The OpenAPI 3.1 document, generated from the contracts that the app serves.

``python -m functions.openapi_file docs/spec/openapi.json`` renews the committed copy.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from functions.contract import Contract, HttpFunctions, Tag
from functions.problems import PROBLEMS
from shared.wire.http import Problem
from shared.wire.objects import reference, schema_of, wire_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from functions.contract import Call

_VERSION = "1"
"""Of the contracts, not of the program: raised when a caller would have to change."""

_JSON, _PROBLEM_JSON = "application/json", "application/problem+json"
_TAGS = {
    Tag.PROVISIONING: "The life of class keys; opened by the keys for provisioning.",
    Tag.WRAPPING: "Class keys for build machines; opened by the keys for wrapping.",
    Tag.ADMINISTRATION: "Who is given what; opened by the master key alone.",
    Tag.READING: "What there is and what became of it; opened by the keys for provisioning.",
    Tag.HEALTH: "Whether the app runs, and what it serves.",
}
_INTRODUCTION = (
    "Class keys of confidential applications: provisioned, rotated, revoked, and wrapped for whom the "
    "release policy allows. Unknown members of a request are ignored. Every error of the app is a problem "
    "document (RFC 9457) with a stable `code`; the Functions host itself answers 401, 408, 413 and 429 "
    "without one."
)
_CORRELATION_HEADER = {"x-correlation-id": {"$ref": "#/components/headers/CorrelationId"}}
_IDEMPOTENCY_PARAMETER = {"$ref": "#/components/parameters/IdempotencyKey"}
_COMPONENT_HEADERS = {
    "CorrelationId": {
        "description": "What finds the request in the logs.",
        "schema": {"type": "string"},
        "required": True,
    },
    "RetryAfter": {
        "description": "Seconds to wait before trying again.",
        "schema": {"type": "integer", "minimum": 0},
        "required": True,
    },
}
_COMPONENT_PARAMETERS = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Chosen by the caller for one request; the same request again, with the same key, "
        "does nothing more and answers the same.",
        "required": False,
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    }
}
_SECURITY_SCHEMES = {
    "functionKey": {"type": "apiKey", "in": "header", "name": "x-functions-key"},
    "functionKeyInQuery": {
        "type": "apiKey",
        "in": "query",
        "name": "code",
        "description": "For callers that can send no header; others' logs hold addresses.",
    },
}

OPENAPI = Contract(
    name="OpenApi",
    method="GET",
    route="openapi.json",
    tag=Tag.HEALTH,
    summary="This document",
    needs_key=False,
    needs_cloud=False,
)


def blueprint(others: Sequence[HttpFunctions]) -> HttpFunctions:
    """Return the function that serves the document.

    Args:
        others: Whose contracts are described, beside its own.
    """
    functions = HttpFunctions()

    @cache
    def document() -> dict[str, object]:
        return describe(contract for each in (*others, functions) for contract in each.contracts)

    @functions.serve(OPENAPI)
    def openapi(_call: Call) -> dict[str, object]:
        return document()

    return functions


def describe(contracts: Iterable[Contract]) -> dict[str, object]:
    """Return the document."""
    paths: dict[str, dict[str, object]] = defaultdict(dict)
    classes: dict[str, type] = {Problem.__name__: Problem}
    requests: set[type] = set()
    for contract in contracts:
        paths[f"/{contract.route}"][contract.method.lower()] = _operation(contract)
        for cls in (contract.body, contract.answer):
            if cls is not None:
                _collect(cls, classes)
        if contract.body is not None:
            requests.add(contract.body)
    _collect(Problem, classes)
    schemas = {name: schema_of(cls, is_request=cls in requests) for name, cls in sorted(classes.items())}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Key service", "version": _VERSION, "description": _INTRODUCTION},
        "servers": [{"url": "/api"}],
        "tags": [{"name": tag.value, "description": about} for tag, about in _TAGS.items()],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": schemas,
            "headers": _COMPONENT_HEADERS,
            "parameters": _COMPONENT_PARAMETERS,
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


def _operation(contract: Contract) -> dict[str, object]:
    operation: dict[str, object] = {
        "operationId": contract.name,
        "tags": [contract.tag.value],
        "summary": contract.summary,
    }
    if contract.description:
        operation["description"] = contract.description
    if parameters := list(_parameters(contract)):
        operation["parameters"] = parameters
    if contract.body is not None:
        operation["requestBody"] = {
            "required": contract.body_is_required,
            "content": {_JSON: {"schema": reference(contract.body)}},
        }
    if contract.document:
        operation["requestBody"] = {
            "required": True,
            "description": contract.document,
            "content": {_JSON: {"schema": {"type": "object"}}},
        }
    operation["responses"] = _responses(contract)
    operation["security"] = [{name: []} for name in _SECURITY_SCHEMES] if contract.needs_key else []
    return operation


def _parameters(contract: Contract) -> Iterable[Mapping[str, object]]:
    for name, kind in contract.path.items():
        yield {"name": name, "in": "path", "required": True, "schema": kind.schema}
    for each in wire_fields(contract.query) if contract.query is not None else ():
        yield {
            "name": each.name,
            "in": "query",
            "description": each.about,
            "required": each.is_required,
            "schema": each.kind.schema,
        }
    for name, about in contract.request_headers.items():
        yield {
            "name": name,
            "in": "header",
            "description": about,
            "required": False,
            "schema": {"type": "string"},
        }
    if contract.is_repeatable:
        yield _IDEMPOTENCY_PARAMETER


def _responses(contract: Contract) -> dict[str, object]:
    schema = {"type": "object"} if contract.answer is None else reference(contract.answer)
    responses: dict[str, object] = {
        str(contract.status.value): {
            "description": contract.status.phrase,
            "headers": {**_CORRELATION_HEADER, **_answer_headers(contract)},
            "content": {_JSON: {"schema": schema}},
        }
    }
    codes: dict[HTTPStatus, list[str]] = defaultdict(list)
    for code in contract.all_problems:
        codes[PROBLEMS[code].status].append(code)
    for status, names in sorted(codes.items()):
        responses[str(status.value)] = _problem_response(status, sorted(names))
    for status in _host_statuses(contract):
        responses.setdefault(str(status.value), {"description": f"{status.phrase}; from the host, no body"})
    return responses


def _answer_headers(contract: Contract) -> Mapping[str, object]:
    return {
        name: {"description": about, "required": True, "schema": {"type": "string"}}
        for name, about in contract.answer_headers.items()
    }


def _host_statuses(contract: Contract) -> Iterable[HTTPStatus]:
    if contract.needs_key:
        yield HTTPStatus.UNAUTHORIZED
    yield HTTPStatus.TOO_MANY_REQUESTS


def _problem_response(status: HTTPStatus, codes: list[str]) -> dict[str, object]:
    headers: dict[str, object] = dict(_CORRELATION_HEADER)
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    return {
        "description": " ".join(f"`{code}`: {PROBLEMS[code].meaning}" for code in codes),
        "headers": headers,
        "content": {
            _PROBLEM_JSON: {
                "schema": {
                    "allOf": [
                        reference(Problem),
                        {"properties": {"status": {"const": status.value}, "code": {"enum": codes}}},
                    ]
                }
            }
        },
    }


def _collect(cls: type, found: dict[str, type]) -> None:
    """Note a class and all that its schema refers to."""
    found[cls.__name__] = cls
    for each in wire_fields(cls):
        for other in each.kind.objects:
            if other.__name__ not in found:
                _collect(other, found)
