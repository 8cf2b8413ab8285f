"""Calls of functions, whatever triggered them: one id, one log line, outputs delivered before success."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING

from local_cloud.functions_host.definitions import FunctionDefinition, OutputType
from local_cloud.functions_host.engine import Engine, Invocation, Outcome
from shared.errors import EdbError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from azure.functions.meta import Datum

    from local_cloud.functions_host.queues import Queues

_log = logging.getLogger("functions_host")


class Invoker:
    """Calls functions through an engine and delivers what they put out.

    Args:
        engine: What holds the app.
        queues: Where queue outputs go.
    """

    def __init__(self, engine: Engine, queues: Queues) -> None:
        self._engine = engine
        self._queues = queues

    async def invoke(
        self,
        function: FunctionDefinition,
        data: Datum,
        metadata: Mapping[str, Datum] | None = None,
        *,
        trace_parent: str = "",
        attempt: int = 0,
    ) -> Outcome:
        """Call a function once.

        Returns:
            Its outcome; an output that cannot be delivered fails the call.
        """
        invocation = Invocation(
            function=function.name,
            id=str(uuid.uuid4()),
            data=data,
            metadata=metadata or {},
            trace_parent=trace_parent,
            attempt=attempt,
        )
        started = time.perf_counter()
        outcome = await self._engine.invoke(invocation)
        if outcome.error is None:
            outcome = await self._deliver(function, outcome)
        fields = {
            "function": function.name,
            "trigger": function.trigger.type.value,
            "invocation_id": invocation.id,
            "attempt": attempt,
            "duration_ms": round((time.perf_counter() - started) * 1000, 1),
        }
        if outcome.error is None:
            _log.info("invocation_succeeded", extra=fields)
        else:
            _log.error("invocation_failed", extra=fields, exc_info=outcome.error)
        return outcome

    async def _deliver(self, function: FunctionDefinition, outcome: Outcome) -> Outcome:
        messages = [
            (output.queue, outcome.results[output.argument])
            for output in function.outputs
            if output.type is OutputType.QUEUE and output.argument in outcome.results
        ]
        try:
            await self._queues.put(messages)
        except EdbError as error:
            return Outcome(error=error)
        return outcome
