"""Engines: what loads an app's functions and calls them.

The host talks to an engine in ``azure.functions.meta.Datum``, the shape in which the platform's host hands
data to its worker, so that another engine can stand in for :class:`SdkEngine`. This one needs
``azure-functions`` alone: the app's own decorators say what the functions are, the SDK's own converters
make their arguments and take their results.

A synchronous function runs in a thread of a pool, with the caller's context variables; an asynchronous one
runs on the event loop, as on the platform.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import azure.functions as func
from azure.functions.meta import Datum, get_binding_registry

from local_cloud.functions_host.definitions import RETURN, FunctionDefinition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

current_invocation: contextvars.ContextVar[str | None] = contextvars.ContextVar("invocation", default=None)
"""Id of the invocation that the running code belongs to, for its log lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call of a function.

    Attributes:
        function: Its name.
        id: Unique, for logs.
        data: What the trigger delivers.
        metadata: What the trigger says about it.
        trace_parent: W3C trace context of the caller, or empty.
        attempt: 0 for the first try, then 1, 2 …
    """

    function: str
    id: str
    data: Datum = field(repr=False)
    metadata: Mapping[str, Datum] = field(default_factory=dict, repr=False)
    trace_parent: str = ""
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a call: results by output name, or the error that the function raised."""

    results: Mapping[str, Datum] = field(default_factory=dict, repr=False)
    error: Exception | None = None


class Engine(Protocol):
    """Loads an app and calls its functions."""

    def definitions(self) -> tuple[FunctionDefinition, ...]:
        """Return the app's functions."""

    async def invoke(self, invocation: Invocation) -> Outcome:
        """Call a function; an exception of its own is in the outcome, never raised."""

    def close(self) -> None:
        """Take no more calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Callee:
    """A function's definition with the code that is called."""

    definition: FunctionDefinition
    code: Callable[..., Any]
    wants_context: bool


class SdkEngine:
    """The engine on ``azure.functions`` itself.

    Args:
        callees: The app's functions, checked.
        folder: Where the app is; functions see it in their context.
        threads: Synchronous functions that run at once.
    """

    def __init__(self, callees: tuple[Callee, ...], *, folder: Path, threads: int) -> None:
        self._callees = {callee.definition.name: callee for callee in callees}
        self._folder = folder
        self._converters = get_binding_registry()  # type: ignore[no-untyped-call] # the SDK's
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="function")

    def definitions(self) -> tuple[FunctionDefinition, ...]:
        """Return the app's functions."""
        return tuple(callee.definition for callee in self._callees.values())

    async def invoke(self, invocation: Invocation) -> Outcome:
        """Call a function."""
        callee = self._callees[invocation.function]
        token = current_invocation.set(invocation.id)
        try:
            return Outcome(results=await self._call(callee, invocation))
        except Exception as error:  # noqa: BLE001 - the border to the app's code: whatever it raised is its outcome
            return Outcome(error=error)
        finally:
            current_invocation.reset(token)

    def close(self) -> None:
        """Take no more calls; what still waits for a thread is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _call(self, callee: Callee, invocation: Invocation) -> dict[str, Datum]:
        definition = callee.definition
        converter = self._converters.get(definition.trigger.type.value)
        arguments = {
            definition.trigger.argument: converter.decode(
                invocation.data, trigger_metadata=invocation.metadata
            )
        }
        outputs = {output.argument: _Out() for output in definition.outputs if output.argument != RETURN}
        arguments |= outputs
        if callee.wants_context:
            arguments["context"] = _Context(invocation, self._folder)
        returned = await self._run(callee.code, arguments, invocation.id)
        values = {name: output.get() for name, output in outputs.items()} | {RETURN: returned}
        return self._results(definition, values)

    async def _run(self, code: Callable[..., Any], arguments: dict[str, Any], invocation_id: str) -> object:
        if inspect.iscoroutinefunction(code):
            return await code(**arguments)

        def call() -> object:
            _local.invocation_id = invocation_id
            return code(**arguments)

        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, functools.partial(context.run, call)
        )

    def _results(self, definition: FunctionDefinition, values: Mapping[str, object]) -> dict[str, Datum]:
        if values[RETURN] is not None and definition.returns() is None:
            raise TypeError(f"function {definition.name} returned a value and has no output to take it")
        results = {}
        for output in definition.outputs:
            value = values[output.argument]
            if value is None:
                continue
            converter = self._converters.get(output.type.value)
            try:
                results[output.argument] = converter.encode(value, expected_type=None)
            except NotImplementedError as error:
                raise TypeError(
                    f"function {definition.name}: output {output.argument}: {type(value).__name__} does not "
                    f"fit a binding of type {output.type.value}"
                ) from error
        return results


_local = threading.local()


class _Out(func.Out[Any]):
    """An output parameter."""

    def __init__(self) -> None:
        self._value: Any = None

    def set(self, val: object) -> None:
        self._value = val

    def get(self) -> Any:  # noqa: ANN401 - the SDK's signature
        return self._value


@dataclass(frozen=True, slots=True, kw_only=True)
class _TraceContext:
    trace_parent: str
    trace_state: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RetryContext:
    retry_count: int
    max_retry_count: int = 0
    exception: None = None


class _Context(func.Context):
    """What a function may ask about its call."""

    def __init__(self, invocation: Invocation, folder: Path) -> None:
        self._invocation = invocation
        self._folder = folder

    @property
    def invocation_id(self) -> str:
        return self._invocation.id

    @property
    def thread_local_storage(self) -> Any:  # noqa: ANN401 - the SDK's own annotation is not what it hands out
        return _local

    @property
    def function_name(self) -> str:
        return self._invocation.function

    @property
    def function_directory(self) -> str:
        return str(self._folder)

    @property
    def trace_context(self) -> Any:  # noqa: ANN401 - has the members of the SDK's class
        return _TraceContext(trace_parent=self._invocation.trace_parent)

    @property
    def retry_context(self) -> Any:  # noqa: ANN401 - as above
        return _RetryContext(retry_count=self._invocation.attempt)
