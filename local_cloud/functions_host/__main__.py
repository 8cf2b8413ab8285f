"""Run the functions host: ``python -m local_cloud.functions_host --app DIR …``; prints ``ready url=https://…``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import ssl
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from local_cloud import serving
from local_cloud.functions_host.access_keys import load_access_keys
from local_cloud.functions_host.connections import ConnectionLimits, listen
from local_cloud.functions_host.engine import SdkEngine, current_invocation
from local_cloud.functions_host.host import FunctionsHost
from local_cloud.functions_host.host_settings import load_host_settings
from local_cloud.functions_host.hub_events import TwinHubEvents
from local_cloud.functions_host.identity import IdentityEndpoint
from local_cloud.functions_host.indexing import load_app
from local_cloud.functions_host.store import HostStore
from shared import logs
from shared.errors import EdbError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_THREADS = "PYTHON_THREADPOOL_THREAD_COUNT"
_MOST_THREADS = 32
_STOP_SECONDS = 3.0
_log = logging.getLogger("functions_host")


def main() -> int:
    """Serve until told to stop; return the exit status."""
    arguments = _parser().parse_args()
    logs.configure()
    for handler in logging.getLogger().handlers:
        handler.addFilter(_with_invocation)
    try:
        asyncio.run(_serve(arguments))
    except EdbError as error:
        if error.__cause__ is not None:
            _log.exception("start_failed", exc_info=error.__cause__)
        sys.stderr.write(f"functions-host: error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="functions-host", description=__doc__)
    parser.add_argument("--app", type=Path, required=True, help="folder of function_app.py and host.json")
    parser.add_argument("--state", type=Path, required=True, help="folder of host.db; made if missing")
    parser.add_argument("--address", required=True, help="IPv4 loopback address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port, any free one by default")
    parser.add_argument("--server-cert", type=Path, required=True, help="PEM chain, leaf first")
    parser.add_argument("--server-key", type=Path, required=True, help="its private key, PEM")
    parser.add_argument("--keys-file", type=Path, required=True, help="function keys, JSON")
    parser.add_argument(
        "--identity-key", type=Path, required=True, help="PEM key that signs the app's access tokens"
    )
    parser.add_argument("--hub-url", required=True, help="the twin hub's service endpoint")
    parser.add_argument("--ca-file", type=Path, required=True, help="PEM root that the hub is trusted by")
    parser.add_argument("--stdin-lifeline", action="store_true", help="end when standard input closes")
    return parser


async def _serve(arguments: argparse.Namespace) -> None:
    context = serving.server_context(arguments.server_cert, arguments.server_key)
    try:
        identity_key = arguments.identity_key.read_bytes()
        hub_trust = ssl.create_default_context(cafile=arguments.ca_file)
        arguments.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError([f"{getattr(error, 'filename', None) or arguments.ca_file}: {error}"]) from error
    keys = load_access_keys(arguments.keys_file)
    settings = load_host_settings(arguments.app / "host.json")
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(serving.listening_socket(arguments.address, arguments.port))
        identity = IdentityEndpoint(identity_key, arguments.address)
        stack.push_async_callback(identity.close)
        os.environ.update(await identity.start())  # before the app is imported: it may look at once
        engine = SdkEngine(load_app(arguments.app), folder=arguments.app, threads=thread_count(os.environ))
        store = HostStore(arguments.state / "host.db")
        stack.callback(store.close)
        events = TwinHubEvents(arguments.hub_url, identity_key=identity_key, context=hub_trust)
        stack.push_async_callback(events.close)
        host = FunctionsHost(engine, settings, environment=os.environ, store=store, keys=keys, events=events)
        runner = web.AppRunner(host.application(), shutdown_timeout=_STOP_SECONDS)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        server = await listen(runner, listener, context=context, limits=ConnectionLimits())
        stack.callback(server.close)
        host.start()
        _log.info("host_started", extra={"functions": host.names})
        serving.announce(f"ready url=https://{arguments.address}:{listener.getsockname()[1]}")
        await serving.until_stopped(stdin_lifeline=arguments.stdin_lifeline)
        engine.close()
        with suppress(TimeoutError):  # a function that still runs is tried again after the next start
            await asyncio.wait_for(host.stop(), _STOP_SECONDS)


def thread_count(environment: Mapping[str, str]) -> int:
    """Return how many synchronous functions run at once, as the platform's worker has it.

    Raises:
        SettingsError: The setting is not what the worker takes.
    """
    text = environment.get(_THREADS) or str(min(_MOST_THREADS, (os.cpu_count() or 1) + 4))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= _MOST_THREADS):
        raise SettingsError([f"{_THREADS}: expected 1 to {_MOST_THREADS}, found {text!r}"])
    return int(text)


def _with_invocation(record: logging.LogRecord) -> bool:
    """Add the invocation that a record was made in, if any, so that its lines can be found together."""
    invocation = current_invocation.get()
    if invocation is not None and not hasattr(record, "invocation_id"):
        record.invocation_id = invocation
    return True


if __name__ == "__main__":
    sys.exit(main())
