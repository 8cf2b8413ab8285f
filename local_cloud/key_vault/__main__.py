"""Run the key vault: ``python -m local_cloud.key_vault --state DIR …``; prints ``ready url=https://…``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from aiohttp import web

from local_cloud import serving
from local_cloud.key_vault.key_calls import KeyCalls
from local_cloud.key_vault.rest import application
from local_cloud.key_vault.secret_calls import SecretCalls
from local_cloud.key_vault.store import Store
from local_cloud.key_vault.throttle import Throttle
from shared import logs
from shared.errors import EdbError, SettingsError


def main() -> int:
    """Serve until told to stop; return the exit status."""
    arguments = _parser().parse_args()
    logs.configure()
    try:
        asyncio.run(_serve(arguments))
    except EdbError as error:
        sys.stderr.write(f"key-vault: error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="key-vault", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder of vault.db; made if missing")
    parser.add_argument("--address", required=True, help="IPv4 loopback address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port, any free one by default")
    parser.add_argument("--server-cert", type=Path, required=True, help="PEM chain, leaf first")
    parser.add_argument("--server-key", type=Path, required=True, help="its private key, PEM")
    parser.add_argument(
        "--identity-public-key", type=Path, required=True, help="PEM key that tokens are verified with"
    )
    parser.add_argument(
        "--throttle",
        type=_rate,
        metavar="CALLS/SECONDS",
        help="calls within so many seconds, beyond which the vault answers 429; none by default",
    )
    parser.add_argument("--stdin-lifeline", action="store_true", help="end when standard input closes")
    return parser


def _rate(text: str) -> Throttle:
    calls, _, seconds = text.partition("/")
    if not (calls.isdecimal() and seconds.isdecimal() and int(calls) and int(seconds)):
        raise argparse.ArgumentTypeError(f"expected CALLS/SECONDS, found {text!r}")
    return Throttle(calls=int(calls), seconds=int(seconds))


async def _serve(arguments: argparse.Namespace) -> None:
    context = serving.server_context(arguments.server_cert, arguments.server_key)
    try:
        identity_public_key = arguments.identity_public_key.read_bytes()
        arguments.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError([f"{error.filename}: {error.strerror}"]) from error
    listener = serving.listening_socket(arguments.address, arguments.port)
    base_url = f"https://{arguments.address}:{listener.getsockname()[1]}"
    store = Store(arguments.state / "vault.db")
    routes = KeyCalls(store, base_url).routes() + SecretCalls(store, base_url).routes()
    served = application(routes, identity_public_key=identity_public_key, throttle=arguments.throttle)
    runner = web.AppRunner(served, access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, listener, ssl_context=context).start()
        serving.announce(f"ready url={base_url}")
        await serving.until_stopped(stdin_lifeline=arguments.stdin_lifeline)
    finally:
        await runner.cleanup()
        store.close()


if __name__ == "__main__":
    sys.exit(main())
