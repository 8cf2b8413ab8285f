"""Slow, half-open, oversized and malformed connections: each costs its own client, and nobody else."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import azure.functions as func
import pytest
from aiohttp import web

from local_cloud.functions_host.access_keys import AccessKeys
from local_cloud.functions_host.connections import ConnectionLimits, listen
from local_cloud.functions_host.definitions import (
    RETURN,
    FunctionDefinition,
    Output,
    OutputType,
    Trigger,
    TriggerType,
)
from local_cloud.functions_host.engine import Callee, SdkEngine
from local_cloud.functions_host.host_settings import HostSettings
from local_cloud.functions_host.http_functions import HttpFunctions, RequestLimits
from local_cloud.functions_host.invoker import Invoker
from local_cloud.functions_host.queues import Queues
from local_cloud.functions_host.store import HostStore
from local_cloud.serving import listening_socket

KEY = "k" * 40
SECONDS = 60  # how long anything may take before a test fails


@pytest.fixture
def store(tmp_path):
    store = HostStore(tmp_path / "host.db")
    yield store
    store.close()


@asynccontextmanager
async def serving(store, code=lambda req: func.HttpResponse(req.get_body()), *, limits=None, **connections):
    """Serve one function, POST /api/echo, and give its port."""
    trigger = Trigger(argument="req", type=TriggerType.HTTP, members={"route": "echo", "methods": ["POST"]})
    output = Output(argument=RETURN, type=OutputType.HTTP, queue="")
    definition = FunctionDefinition(name="echo", trigger=trigger, outputs=(output,))
    engine = SdkEngine(
        (Callee(definition=definition, code=code, wants_context=False),), folder=Path("/app"), threads=2
    )
    http = HttpFunctions(
        [definition],
        route_prefix="api",
        keys=AccessKeys([(KEY, frozenset({"echo"}))]),
        invoker=Invoker(engine, Queues(store, HostSettings())),
        limits=limits or RequestLimits(),
    )
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", http.handle)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    listener = listening_socket("127.0.0.1", 0)
    server = await listen(runner, listener, context=None, limits=ConnectionLimits(**connections))
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()
        await runner.cleanup()
        engine.close()


async def send(port, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


def head(*headers, body_length=0, target="/api/echo"):
    lines = [f"POST {target} HTTP/1.1", "Host: x", f"x-functions-key: {KEY}", *headers]
    return "\r\n".join([*lines, f"Content-Length: {body_length}", "", ""]).encode()


async def exchange(port, data):
    """Send a request, and return all that comes back until the server hangs up or one answer is whole."""
    reader, writer = await send(port, data)
    try:
        answer = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in answer.lower().split(b"\r\n")
            if b"content-length" in line
        )
        return int(answer.split()[1]), answer + await reader.readexactly(length)
    finally:
        writer.close()


def run(scenario):
    async def bounded():
        async with asyncio.timeout(SECONDS):
            await scenario()

    asyncio.run(bounded())


def test_slow_and_half_open_clients_do_not_block_others(store):
    async def scenario():
        limits = RequestLimits(concurrent=1, outstanding=2)
        async with serving(store, limits=limits) as port:
            stuck = [await send(port, b"") for _ in range(40)]
            stuck += [await send(port, b"POST /api/echo HTTP/1.1\r\nx-fun") for _ in range(40)]
            stuck += [await send(port, head(body_length=100) + b"half") for _ in range(40)]
            status, answer = await exchange(port, head(body_length=2) + b"hi")
            assert (status, answer[-2:]) == (200, b"hi")
            for _, writer in stuck:
                writer.close()

    run(scenario)


@pytest.mark.parametrize("sent", [b"", b"POST /api/echo HTTP/1.1\r\nx-functions-key: " + KEY.encode()])
def test_a_request_head_that_does_not_come_ends_the_connection(store, sent):
    async def scenario():
        async with serving(store, idle_seconds=0.2) as port:
            reader, writer = await send(port, sent)
            assert await reader.read() == b""
            writer.close()

    run(scenario)


def test_a_body_that_does_not_come_is_408(store):
    async def scenario():
        async with serving(store, limits=RequestLimits(body_seconds=0.2)) as port:
            status, _ = await exchange(port, head(body_length=100) + b"half")
            assert status == 408

    run(scenario)


def test_a_body_over_the_limit_is_413_whether_it_says_so_or_not(store):
    async def scenario():
        async with serving(store, limits=RequestLimits(body_bytes=10)) as port:
            assert (await exchange(port, head(body_length=10) + b"x" * 10))[0] == 200
            assert (await exchange(port, head(body_length=11)))[0] == 413
            chunked = head("Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
            assert (await exchange(port, chunked + b"b\r\n" + b"x" * 11 + b"\r\n"))[0] == 413

    run(scenario)


def test_more_requests_than_may_wait_are_told_to_come_back(store):
    begun, release = threading.Semaphore(0), threading.Event()

    def slow(req):
        begun.release()
        release.wait(SECONDS)
        return func.HttpResponse("done")

    async def scenario():
        async with serving(store, slow, limits=RequestLimits(concurrent=1, outstanding=1)) as port:
            first = asyncio.create_task(exchange(port, head()))
            await asyncio.to_thread(begun.acquire)
            status, answer = await exchange(port, head())
            assert (status, b"retry-after: 1" in answer.lower()) == (429, True)
            release.set()
            assert (await first)[0] == 200

    run(scenario)


def test_connections_over_the_limit_are_dropped_and_make_room_again(store):
    async def scenario():
        async with serving(store, connections=2) as port:
            held = [await send(port, b"POST") for _ in range(2)]
            reader, writer = await send(port, head())
            assert await reader.read() == b""
            writer.close()
            for _, each in held:
                each.close()
            while True:
                try:
                    assert (await exchange(port, head()))[0] == 200
                    break
                except (asyncio.IncompleteReadError, ConnectionError):
                    await asyncio.sleep(0)  # the server has not yet seen that there is room

    run(scenario)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head(f"x: {'y' * 9000}"), 431),
        (head(target=f"/api/echo?code={KEY}{'y' * 9000}"), 431),
        (head(*(f"x{number}: y" for number in range(200))), 400),
        (f"POST /api/echo?code={KEY} HTTP/9.9\r\n\r\n".encode(), 400),
        (f"POST /api/echo HTTP/1.1\r\nx-functions-key: {KEY}\0\r\n\r\n".encode(), 400),
        (f"POST /api/echo HTTP/1.1\r\nx-functions-key {KEY}\r\n\r\n".encode(), 400),
        (head(f"Content-Length: {KEY}"), 400),
    ],
)
def test_what_is_no_http_is_refused_and_repeated_nowhere(store, caplog, data, status):
    caplog.set_level("DEBUG")

    async def scenario():
        async with serving(store) as port:
            found, answer = await exchange(port, data)
            assert found == status
            assert KEY.encode() not in answer

    run(scenario)
    assert "request_malformed" in [record.message for record in caplog.records]
    assert KEY not in caplog.text
    assert not any(record.exc_info for record in caplog.records)
