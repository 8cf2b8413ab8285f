"""HTTP contracts, declared once: the Functions host gets its routes from here, and OpenAPI its document.

To add one: declare a :class:`Contract` (its bodies are dataclasses of :mod:`shared.wire`), and put the code
that serves it into a module's blueprint. A code it can newly fail with goes into :mod:`functions.problems`.

Example::

    ROTATE_KEY = Contract(name="RotateKey", method="POST", route="RotateKey", tag=Tag.PROVISIONING,
                          summary="Make the next version of a class key", body=RotateRequest,
                          answer=RotateAnswer, problems=("key_not_found",), asks_for_pass=True)

    @functions.serve(ROTATE_KEY)
    def rotate_key(call: Call) -> RotateAnswer:
        ...
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import azure.functions as func

from functions.endpoint import (
    PAGES_QUEUE,
    PASSES_QUEUE,
    QUEUE_CONNECTION,
    Answer,
    MethodNotAllowedError,
    respond,
)
from shared.wire.objects import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shared.wire.values import Value

# The codes that every contract can answer with, those of a body, and those of what lies in vault or hub.
_OF_ALL, _OF_BODIES, _OF_QUERIES, _OF_CLOUD = (
    ("internal",),
    ("malformed", "invalid_request", "body_too_large"),
    ("invalid_request",),
    ("unavailable",),
)
_OF_DOCUMENTS = ("malformed", "body_too_large")
_OF_IDEMPOTENCY = ("idempotency_key_invalid", "idempotency_key_reused")


class Tag(enum.Enum):
    """What a contract is about; the key of one tag does not open another, except for reading.

    The key for provisioning opens reading, too.
    """

    PROVISIONING = "provisioning"
    WRAPPING = "wrapping"
    ADMINISTRATION = "administration"
    READING = "reading"
    HEALTH = "health"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What one function takes and gives over HTTP.

    Args:
        name: The function's, and the OpenAPI operation's.
        method: The one that it serves.
        route: Below ``/api/``, with ``{parameters}``.
        tag: What it is about.
        summary: A line.
        description: More, if it needs more.
        path: Kinds of the route's parameters, by name.
        query: Class of the query's parameters; None if it takes none.
        body: Class of the request's body; None if it takes none.
        document: What the body is, where it is a JSON document of its own and not an object of ours.
        body_is_required: Whether an empty body lacks something.
        status: Of the answer.
        answer: Class of the answer; None for any JSON object.
        problems: Codes that it can fail with, beside those that follow from the rest.
        request_headers: What headers of a request say, by name, where they are heeded.
        answer_headers: What headers of the answer say, by name.
        needs_key: Whether a function key is asked for.
        needs_master_key: Whether that has to be the master key.
        needs_cloud: Whether it asks the vault or the hub.
        asks_for_pass: Whether it may put a message on the queue of distribution passes.
        asks_for_page: Whether it may put one on the queue of pages, of devices to be reconciled, instead.
        is_repeatable: Whether it heeds the header ``Idempotency-Key``.
        refused: Methods that are taken to be refused with 405 by the app itself.
    """

    name: str
    method: str
    route: str
    tag: Tag
    summary: str
    description: str = ""
    path: Mapping[str, Value[Any]] = field(default_factory=dict)
    query: type | None = None
    body: type | None = None
    document: str = ""
    body_is_required: bool = True
    status: HTTPStatus = HTTPStatus.OK
    answer: type | None = None
    problems: tuple[str, ...] = ()
    request_headers: Mapping[str, str] = field(default_factory=dict)
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    needs_key: bool = True
    needs_master_key: bool = False
    needs_cloud: bool = True
    asks_for_pass: bool = False
    asks_for_page: bool = False
    is_repeatable: bool = False
    refused: tuple[str, ...] = ()

    @property
    def auth_level(self) -> func.AuthLevel:
        """What the host asks of a caller."""
        if self.needs_master_key:
            return func.AuthLevel.ADMIN
        return func.AuthLevel.FUNCTION if self.needs_key else func.AuthLevel.ANONYMOUS

    @property
    def all_problems(self) -> tuple[str, ...]:
        """Every code that it can answer with to the method that it serves."""
        implied = (
            _OF_ALL,
            _OF_BODIES if self.body is not None else (),
            _OF_DOCUMENTS if self.document else (),
            _OF_QUERIES if self.query is not None else (),
            _OF_CLOUD if self.needs_cloud else (),
            _OF_IDEMPOTENCY if self.is_repeatable else (),
            self.problems,
        )
        return tuple(dict.fromkeys(code for codes in implied for code in codes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to a contract.

    Args:
        request: The host's.
        correlation_id: What finds it in the logs.
        put_pass: Puts a message on the queue of distribution passes.
        put_page: Puts a message on the queue of pages.
    """

    request: func.HttpRequest
    correlation_id: str
    put_pass: Callable[[str], None]
    put_page: Callable[[str], None]

    @property
    def body(self) -> bytes:
        """The request's body."""
        return self.request.get_body()

    @property
    def query(self) -> Mapping[str, str]:
        """The query's parameters."""
        query: Mapping[str, str] = self.request.params
        return query

    @property
    def route(self) -> Mapping[str, str]:
        """The route's parameters."""
        route: Mapping[str, str] = self.request.route_params
        return route

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; their names ignore case."""
        headers: Mapping[str, str] = self.request.headers
        return headers


if TYPE_CHECKING:
    _Serves = Callable[[Call], object]


class HttpFunctions(func.Blueprint):
    """A blueprint whose functions serve contracts.

    Attributes:
        contracts: Those that are served.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # the SDK leaves it untyped
        self.contracts: list[Contract] = []

    def serve(self, contract: Contract) -> Callable[[_Serves], _Serves]:
        """Return a decorator: what it decorates serves the contract, and answers an instance of its class.

        Where a contract's answer has headers or bytes of its own, an :class:`Answer` is given.
        """

        def register(act: _Serves) -> _Serves:
            self.contracts.append(contract)
            function = _function_of(contract, act)
            if contract.asks_for_pass:
                function = self.queue_output(
                    arg_name="passes", queue_name=PASSES_QUEUE, connection=QUEUE_CONNECTION
                )(function)
            if contract.asks_for_page:
                function = self.queue_output(
                    arg_name="pages", queue_name=PAGES_QUEUE, connection=QUEUE_CONNECTION
                )(function)
            function = self.route(
                route=contract.route,
                methods=[*contract.refused, contract.method],
                auth_level=contract.auth_level,
            )(function)
            self.function_name(name=contract.name)(function)
            return act

        return register


def _function_of(contract: Contract, act: _Serves) -> Callable[..., Any]:
    """Return the function that the host calls; its arguments' names and types are those of the bindings."""

    def answer(
        request: func.HttpRequest,
        *,
        put_pass: Callable[[str], None] = _unasked,
        put_page: Callable[[str], None] = _unasked,
    ) -> func.HttpResponse:
        def serve(correlation_id: str) -> Answer:
            if request.method in contract.refused:
                raise MethodNotAllowedError(contract.method)
            call = Call(request=request, correlation_id=correlation_id, put_pass=put_pass, put_page=put_page)
            given = act(call)
            if isinstance(given, Answer):
                return given
            document = given if isinstance(given, dict) else encode(given)
            return Answer(document=document, status=contract.status)

        return respond(request, serve)

    def with_passes(req: func.HttpRequest, passes: func.Out[str]) -> func.HttpResponse:
        return answer(req, put_pass=passes.set)

    def with_pages(req: func.HttpRequest, pages: func.Out[str]) -> func.HttpResponse:
        return answer(req, put_page=pages.set)

    def alone(req: func.HttpRequest) -> func.HttpResponse:
        return answer(req)

    function: Callable[..., func.HttpResponse] = alone
    if contract.asks_for_pass:
        function = with_passes
    elif contract.asks_for_page:
        function = with_pages
    function.__name__ = contract.name
    return function


def _unasked(_message: str) -> None:
    raise AssertionError("the contract says that it puts nothing on this queue")
