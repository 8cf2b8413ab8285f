"""Storage queues: what functions put out, what triggers them, and what happens when they fail.

A message is worked on by one function at a time and deleted after the function succeeded. After a failure
it waits for the visibility timeout; after the last try it goes to the queue ``<name>-poison``. Nothing
polls: a queue's worker sleeps until a message is put, becomes visible, or another one is done.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from azure.functions.meta import Datum

from local_cloud.functions_host.host_settings import HostSettings, MessageEncoding
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_cloud.functions_host.definitions import FunctionDefinition
    from local_cloud.functions_host.invoker import Invoker
    from local_cloud.functions_host.store import HostStore, Message

MAX_MESSAGE = 64 * 1024
"""Bytes of a message's text as it is stored (the platform's limit)."""

POISON = "-poison"
"""What the name of a poison queue ends with."""

_log = logging.getLogger("functions_host")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9]|-(?=[a-z0-9])){2,62}")


def parse_queue_name(name: str, *, where: str) -> str:
    """Return a queue's name if it is one.

    Raises:
        FormatError: Not 3 to 63 lower-case letters, digits and single hyphens between them.
    """
    if not _NAME.fullmatch(name):
        raise FormatError(
            f"{where}: expected a queue name of 3 to 63 lower-case letters, digits and single hyphens, "
            f"found {name!r:.80}"
        )
    return name


class Queues:
    """All queues of the app.

    Args:
        store: Where the messages are.
        settings: How they are written.
    """

    def __init__(self, store: HostStore, settings: HostSettings) -> None:
        self._store = store
        self._encoding = settings.message_encoding
        self._bells: dict[str, asyncio.Event] = {}

    def bell(self, queue: str) -> asyncio.Event:
        """Return the event that is set when something happened on a queue."""
        return self._bells.setdefault(queue, asyncio.Event())

    async def put(self, outputs: Sequence[tuple[str, Datum]]) -> None:
        """Store what a function put out, all of it or nothing, and wake the queues' workers.

        Raises:
            FormatError: A message is too long.
        """
        messages = [
            (queue, self._encode(body, where=f"message for queue {queue}"))
            for queue, datum in outputs
            for body in _bodies(datum)
        ]
        if not messages:
            return
        await asyncio.to_thread(self._store.put, messages)
        for queue in {queue for queue, _ in messages}:
            self.bell(queue).set()

    def decode(self, message: Message) -> Datum:
        """Return a message's body as a trigger delivers it.

        Raises:
            FormatError: Its text is not written as the settings say.
        """
        if self._encoding is MessageEncoding.NONE:
            return Datum(message.text, "string")
        try:
            body = base64.b64decode(message.text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise FormatError(f"queue message {message.id}: not base64, as host.json wants it") from error
        try:
            return Datum(body.decode(), "string")
        except UnicodeDecodeError:
            return Datum(body, "bytes")

    def _encode(self, body: bytes, *, where: str) -> str:
        if self._encoding is MessageEncoding.BASE64:
            text = base64.b64encode(body).decode("ascii")
        else:
            try:
                text = body.decode()
            except UnicodeDecodeError as error:
                raise FormatError(f"{where}: bytes that are no UTF-8 need base64 messages") from error
        if len(text.encode()) > MAX_MESSAGE:
            raise FormatError(f"{where}: {len(text.encode())} bytes as stored; at most {MAX_MESSAGE}")
        return text


def _bodies(datum: Datum) -> list[bytes]:
    """Return the messages in what the SDK's converter made of an output."""
    if datum.type == "bytes":
        return [bytes(datum.value)]
    if datum.type != "json":
        return [str(datum.value).encode()]
    document = json.loads(datum.value)
    items = document if isinstance(document, list) else [document]
    return [(item["body"] if isinstance(item, dict) else item).encode() for item in items]


class QueueWorker:
    """Feeds one function from its queue.

    Args:
        function: Triggered by the queue.
        queue: The queue's name.
        queues: All queues.
        store: Where the messages are.
        invoker: Calls the function.
        settings: How many at once, how often.
    """

    def __init__(
        self,
        function: FunctionDefinition,
        queue: str,
        *,
        queues: Queues,
        store: HostStore,
        invoker: Invoker,
        settings: HostSettings,
    ) -> None:
        self._function = function
        self._queue = queue
        self._queues = queues
        self._store = store
        self._invoker = invoker
        self._settings = settings
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until cancelled; calls that run are then waited for."""
        bell = self._queues.bell(self._queue)
        try:
            while True:
                bell.clear()
                for message in await self._take():
                    task = asyncio.create_task(self._work(message))
                    self._running.add(task)
                    task.add_done_callback(self._done)
                try:
                    patience = await self._patience()
                    await asyncio.wait_for(bell.wait(), patience)
                except TimeoutError:
                    continue
        finally:
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _take(self) -> list[Message]:
        if self._is_busy():
            return []
        return await asyncio.to_thread(self._store.take, self._queue, self._settings.batch_size)

    def _is_busy(self) -> bool:
        return len(self._running) > self._settings.new_batch_threshold

    async def _patience(self) -> float | None:
        """Return the seconds until a waiting message is visible; ``None`` waits for the bell alone."""
        if self._is_busy():
            return None
        moment = await asyncio.to_thread(self._store.next_visible, self._queue)
        return None if moment is None else max(0.0, moment - time.time())

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._queues.bell(self._queue).set()
        if not task.cancelled() and task.exception() is not None:
            _log.error("queue_failed", extra={"queue": self._queue}, exc_info=task.exception())

    async def _work(self, message: Message) -> None:
        try:
            data = self._queues.decode(message)
        except FormatError:
            await self._poison(message)
            return
        outcome = await self._invoker.invoke(
            self._function, data, message_metadata(message), attempt=message.dequeue_count - 1
        )
        if outcome.error is None:
            await asyncio.to_thread(self._store.delete, message)
        elif message.dequeue_count >= self._settings.max_dequeue_count:
            await self._poison(message)
        else:
            delay = self._settings.visibility_timeout
            await asyncio.to_thread(self._store.give_back, message, delay=delay)

    async def _poison(self, message: Message) -> None:
        poison = self._queue + POISON
        await asyncio.to_thread(self._store.move, message, poison)
        self._queues.bell(poison).set()
        _log.error(
            "message_poisoned",
            extra={"queue": self._queue, "message_id": message.id, "dequeue_count": message.dequeue_count},
        )


def message_metadata(message: Message) -> dict[str, Datum]:
    """Return what a queue trigger says about its message."""
    return {
        "Id": Datum(message.id, "string"),
        "DequeueCount": Datum(str(message.dequeue_count), "string"),
        "InsertionTime": Datum(_moment(message.inserted), "string"),
        "ExpirationTime": Datum(_moment(message.expires), "string"),
        "NextVisibleTime": Datum(_moment(message.expires), "string"),
        "PopReceipt": Datum(message.id, "string"),
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
