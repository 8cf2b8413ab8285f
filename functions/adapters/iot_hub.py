"""IoT Hub's twins, through the service SDK.

The SDK opens a new TLS connection for each call unless told to keep it, never retries a write, and sleeps by
itself where a read is refused; this adapter keeps connections, one set for each thread, and retries reads and
writes alike: what it writes is guarded by an ETag, so a repeated write does no harm. Each attempt waits for
its turn within this instance's rate of such calls.
"""

from __future__ import annotations

import random
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from azure.core.exceptions import AzureError
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import QuerySpecification, TwinProperties
from azure.iot.hub.models import Twin as HubTwin
from azure.iot.hub.protocol.operations import QueryOperations
from msrest.exceptions import ClientException, HttpOperationError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.stop import stop_base

from functions import deadline, telemetry
from functions.adapters.holder_query import holder_queries, read_holder
from functions.call_rates import CallRates, HubCall, seconds_asked
from functions.token_bucket import BusyError
from shared.errors import Conflict, FormatError, NotFound, TransportError
from shared.twin.ports import HolderPage, RowPage, Twin, TwinPage, TwinRow
from shared.types import DeviceId, parse_device_id

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

    from azure.core.credentials import TokenCredential

    from shared.types import KeyName

PAGE_SIZE = 1000
"""Rows of one query page; the hub gives no more."""

ATTEMPTS = 5
"""How often a call is made before the hub is taken to be unavailable."""

MAX_WAIT_SECONDS = 60.0
"""Longest wait between two attempts."""

CALL_SECONDS = 30
"""How long one call may take."""

THROTTLED = "hub_throttled"
"""Code of the error that says that the hub had enough of such calls."""

_BAD_REQUEST, _NOT_FOUND, _PRECONDITION_FAILED, _TOO_LARGE, _TOO_MANY = 400, 404, 412, 413, 429
_ROW = (
    " tags AS tags, properties.desired.$version AS desired,"
    " properties.reported.confidential_package_status.seq AS seq,"
    " properties.reported.confidential_package_status.pkf AS pkf,"
    " properties.reported.confidential_package_status.algs AS algs,"
    " properties.reported.confidential_package_status.failed AS failed,"
    " properties.reported.$metadata.device_public_key.$lastUpdated AS keyUpdated,"
    " properties.reported.$metadata.device_cert.$lastUpdated AS certificateUpdated"
)
_TAKES_PART = (
    " WHERE is_defined(properties.reported.device_public_key)"
    " OR is_defined(properties.desired.confidential_package_keys)"
    " OR is_defined(properties.desired.confidential_package_release)"
)
ROW_QUERIES = {
    source: f"SELECT {names},{_ROW} FROM {collection}{_TAKES_PART}"  # noqa: S608 - literals of this module
    for source, collection, names in (
        ("devices", "devices", "deviceId AS deviceId, status AS status"),
        ("modules", "devices.modules", "deviceId AS deviceId, moduleId AS moduleId"),
    )
}
_DISABLED_QUERY = "SELECT deviceId AS deviceId FROM devices WHERE status = 'disabled'"
_TAGGED_QUERIES = {
    "devices": "SELECT * FROM devices WHERE is_defined(tags.confidential_packages)",
    "modules": "SELECT * FROM devices.modules WHERE is_defined(tags.confidential_packages)",
}
_MODULES_BEGIN = "modules:"
_WORD = re.compile(r"[a-z0-9_]{1,64}")
_Result = TypeVar("_Result")


def configure(client: IoTHubRegistryManager) -> None:
    """Let the SDK keep its connections, and leave to this adapter what to try again."""
    client.protocol.config.keep_alive = True
    client.protocol.config.connection.timeout = CALL_SECONDS
    policy = client.protocol.config.retry_policy.policy
    # A connection that broke is opened anew once. A refusal is an answer: the SDK would sleep for as long as
    # it says while all other threads go on asking, and may sleep for longer than the function may take.
    policy.total, policy.connect, policy.read = None, 1, 1
    policy.status_forcelist, policy.respect_retry_after_header = (), False


class HubTwinRegistry:
    """A :class:`shared.twin.ports.TwinRegistry` over a hub; may be used from several threads.

    Args:
        connect: Makes a client of the hub; called once for each thread.
        rates: Of this instance; None for no limit.
        sleep: Waits between attempts; None really does.
    """

    def __init__(
        self,
        connect: Callable[[], IoTHubRegistryManager],
        *,
        rates: CallRates | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._connect = connect
        self._rates = rates if rates is not None else CallRates("hub")
        self._sleep = sleep
        self._threads = threading.local()

    @classmethod
    def connect(
        cls, host: str, credential: TokenCredential, *, rates: CallRates | None = None
    ) -> HubTwinRegistry:
        """Return a registry of the hub at ``host``, which may hold a port."""

        def make() -> IoTHubRegistryManager:
            client = IoTHubRegistryManager.from_token_credential(host, credential)
            configure(client)
            return client

        return cls(make, rates=rates)

    def read(self, device_id: DeviceId) -> Twin:
        """Return a twin; see the port."""
        device, _, module = device_id.partition("/")
        if not module:
            return _read_twin(self._call(device_id, HubCall.READ, lambda hub: hub.get_twin(device)))
        twin = self._call(device_id, HubCall.READ, lambda hub: hub.get_module_twin(device, module))
        if not twin.status:  # a module has no status of its own: its device is let in or is not
            twin.status = self._call(device_id, HubCall.READ, lambda hub: hub.get_twin(device)).status
        return _read_twin(twin)

    def patch(self, device_id: DeviceId, patch: Mapping[str, object], *, etag: str) -> None:
        """Merge a patch; see the port."""
        properties = patch.get("properties")
        desired = None if properties is None else TwinProperties(**properties)  # type: ignore[arg-type]
        body = HubTwin(tags=patch.get("tags"), properties=desired)
        device, _, module = device_id.partition("/")
        if module:
            self._call(
                device_id, HubCall.UPDATE, lambda hub: hub.update_module_twin(device, module, body, etag)
            )
        else:
            self._call(device_id, HubCall.UPDATE, lambda hub: hub.update_twin(device, body, etag))

    def rows(self, *, token: str | None) -> RowPage:
        """Return who has to do with class keys, up to 1,000 a page, devices first; see the port."""
        source, found, following = self._next(ROW_QUERIES, token, PAGE_SIZE, rows=True)
        disabled = self._disabled() if source == "modules" and found else frozenset()
        return RowPage(rows=[read_row(row, disabled) for row in found], next_token=following)

    def _disabled(self) -> frozenset[object]:
        """Return the devices that the hub keeps out: a module has no status of its own."""
        devices: set[object] = set()
        token: str | None = None
        while True:
            found, token = self._query(_DISABLED_QUERY, token, PAGE_SIZE, rows=True)
            devices.update(row.get("deviceId") for row in found)
            if token is None:
                return frozenset(devices)

    def page(
        self, *, token: str | None, size: int, state: str | None = None, reason: str | None = None
    ) -> TwinPage:
        """Return twins that bear an outcome tag, devices first and then modules; see the port."""
        condition = _tagged("state", state) + _tagged("reason", reason)
        queries = {source: query + condition for source, query in _TAGGED_QUERIES.items()}
        _, twins, following = self._next(queries, token, size)
        return TwinPage(twins=[_read_twin(twin) for twin in twins], next_token=following)

    def holders(
        self,
        name: KeyName,
        *,
        token: str | None,
        size: int,
        version: int | None = None,
        state: str | None = None,
    ) -> HolderPage:
        """Return who holds a class key or was given it, devices first and then modules; see the port."""
        queries = holder_queries(name, version=version, state=state)
        _, found, following = self._next(queries, token, size, rows=True)
        return HolderPage(rows=[read_holder(row) for row in found], next_token=following)

    def _next(
        self, queries: Mapping[str, str], token: str | None, size: int, *, rows: bool = False
    ) -> tuple[str, list[Any], str | None]:
        """Return what is asked, the page that a token leads to, and the next token: devices, then modules."""
        source, _, hub_token = (token or "devices:").partition(":")
        if source not in queries:
            raise FormatError("token: not one that a page told")
        found, following = self._query(queries[source], hub_token or None, size, rows=rows)
        next_token = None if following is None else f"{source}:{following}"
        if next_token is None and source == "devices":
            next_token = _MODULES_BEGIN
        return source, found, next_token

    def _query(self, text: str, token: str | None, size: int, *, rows: bool) -> tuple[list[Any], str | None]:
        """Return a page as the SDK's twins, or as plain rows: it has no model for chosen columns."""
        specification = QuerySpecification(query=text)

        def ask(hub: IoTHubRegistryManager) -> tuple[list[Any], str | None]:
            query = _row_query(hub) if rows else hub.protocol.query
            answer = query.get_twins(specification, token, str(size), raw=True)
            return answer.output or [], answer.headers["x-ms-continuation"] or None

        return self._call("query", HubCall.QUERY, ask)

    def _call(
        self, what: str, call: HubCall, operation: Callable[[IoTHubRegistryManager], _Result]
    ) -> _Result:
        """Call the hub and translate what it refuses with; retried while that may help."""
        options = {} if self._sleep is None else {"sleep": self._sleep}
        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS) | _TooLate(),
            retry=retry_if_exception(_may_pass),
            wait=_wait,
            reraise=True,
            **options,  # type: ignore[arg-type]
        )
        with telemetry.call("hub", what):
            for attempt in retrying:
                with attempt:
                    return self._attempt(what, call, operation)
        raise TransportError(f"{what}: the hub was not asked")  # the loop above returns or raises

    def _attempt(
        self, what: str, call: HubCall, operation: Callable[[IoTHubRegistryManager], _Result]
    ) -> _Result:
        self._rates.take(call)
        try:
            with _hub_errors(what):
                return operation(self._client())
        except TransportError as error:
            if error.code == THROTTLED:
                self._rates.refused(call, error.retry_after)
            raise

    def _client(self) -> IoTHubRegistryManager:
        client = getattr(self._threads, "client", None)
        if client is None:
            client = self._threads.client = self._connect()
        return client


def _tagged(member: str, value: str | None) -> str:
    """Return the condition that the outcome tag tells this word; the query language has no parameters."""
    if value is None:
        return ""
    if not _WORD.fullmatch(value):
        raise FormatError(f"{member}: expected a word of a-z 0-9 _")
    return f" AND tags.confidential_packages.{member} = '{value}'"


def _may_pass(error: BaseException) -> bool:
    """Say whether another attempt may help; who could not wait for the first has no time for a second."""
    return isinstance(error, TransportError) and not isinstance(error, BusyError)


class _TooLate(stop_base):
    """Stops where the next attempt would come later than the function may take."""

    def __call__(self, retry_state: RetryCallState) -> bool:
        return retry_state.upcoming_sleep > deadline.remaining()


def _wait(state: RetryCallState) -> float:
    """Return how long to wait: what the hub asked for, else a jittered back-off, at most a minute."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, TransportError) and error.retry_after is not None:
        return min(error.retry_after, MAX_WAIT_SECONDS)
    return random.uniform(0.5, 1.0) * min(2.0**state.attempt_number, MAX_WAIT_SECONDS)  # noqa: S311 - jitter


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Translate the SDK's errors into the port's."""
    try:
        yield
    except HttpOperationError as error:
        raise _refused(what, error) from error
    except (ClientException, AzureError, OSError) as error:
        raise TransportError(f"{what}: {type(error).__name__}", code="hub_unavailable") from error


def _refused(what: str, error: HttpOperationError) -> Exception:
    status = error.response.status_code
    message = f"{what}: the hub answered {status}"
    if status == _NOT_FOUND:
        return NotFound(f"{what}: the hub knows no such device", code="device_not_found")
    if status == _PRECONDITION_FAILED:
        return Conflict(f"{what}: the twin was changed in between", code="twin_conflict")
    if status in {_BAD_REQUEST, _TOO_LARGE}:
        return FormatError(message, code="twin_refused")
    code = THROTTLED if status == _TOO_MANY else "hub_unavailable"
    return TransportError(message, code=code, retry_after=seconds_asked(error.response.headers))


def _row_query(hub: IoTHubRegistryManager) -> QueryOperations:
    """Return the SDK's query, which answers what the hub did: its twins take a hundred times as long."""
    query = hub.protocol.query

    def read(kind: str, response: Any) -> Any:  # noqa: ANN401 - the SDK's types
        return response.json() if kind == "[Twin]" else query._deserialize(kind, response)  # noqa: SLF001 - as below

    return QueryOperations(query._client, query.config, query._serialize, read)  # noqa: SLF001 - it has no other way


def read_row(row: Mapping[str, object], disabled: Container[object]) -> TwinRow:
    """Return a row of :data:`ROW_QUERIES`, unchecked; ``disabled`` are the devices that the hub keeps out."""
    device, module = row.get("deviceId"), row.get("moduleId")
    status = row.get("status") if module is None else ("disabled" if device in disabled else "enabled")
    return TwinRow(
        device if module is None else f"{device}/{module}",
        status,
        row.get("tags"),
        row.get("desired"),
        row.get("seq"),
        row.get("pkf"),
        row.get("algs"),
        row.get("failed"),
        row.get("keyUpdated"),
        row.get("certificateUpdated"),
    )


def _device_id(row: HubTwin) -> DeviceId:
    text = f"{row.device_id}/{row.module_id}" if row.module_id else row.device_id
    return parse_device_id(text, where="twin query")


def _read_twin(twin: HubTwin) -> Twin:
    properties = twin.properties
    return Twin(
        device_id=_device_id(twin),
        etag=twin.etag or "",
        status=twin.status or "",
        tags=twin.tags or {},
        desired=(properties and properties.desired) or {},
        reported=(properties and properties.reported) or {},
    )
