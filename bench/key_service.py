"""Measure WrapKey: its latency and its requests a second, beside the same cryptography without HTTP.

    python bench/key_service.py
    python bench/key_service.py --rounds 9 --requests 400 --clients 1 4 --json key_service.json --markdown

All is measured in one run, in turns, against a local cloud of its own: one process of the function app, TLS,
the local vault behind it. Contenders:

wrap        ``POST /api/WrapKey``: certificate verified, policy evaluated, the class key wrapped, audited
direct      the same request read, verified, decided and wrapped in this process: no HTTP, no vault, no audit
health      ``GET /api/health``: HTTP, TLS and the Functions host, and nothing else
tang        Tang's ``POST /rec``, if it is installed (apt-get install tang): the nearest peer a package
            manager has, a key released over HTTP by one EC exchange. It runs without TLS, certificates or
            policy, and starts a process for each request.

Figures are medians over the rounds, with the smallest and the largest. Clients run in this process.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import http.client
import json
import os
import platform
import random
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode, urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import cryptography
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from measuring import Spread

from shared.certificate_paths import TrustStore
from shared.keys.wrapping import WrapContext, wrap_key
from shared.policy.claims import certificate_claims
from shared.policy.document import Operation, load_policy
from shared.policy.evaluate import Allowed, evaluate
from shared.twin.entitlement import verify_chain
from shared.types import Secret
from shared.wire.http import WrapRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Call = Callable[[], None]

KEY_NAME = "bench"
TANG = Path("/usr/libexec/tangd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something to be measured.

    Attributes:
        name: Stable, for machines.
        what: For people.
        connect: Makes what does it once; called by each client.
    """

    name: str
    what: str
    connect: Callable[[], Call]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement: latencies in milliseconds, and how many requests a second came out."""

    p50: float
    p99: float
    rate: float


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="key-service-") as folder, contextlib.ExitStack() as stack:
        cloud = stack.enter_context(_cloud(Path(folder) / "state"))
        contenders = [
            *_contenders(cloud, Path(folder) / "machine"),
            *stack.enter_context(_tang(Path(folder))),
        ]
        results = {
            clients: _measure(contenders, clients=clients, requests=options.requests, rounds=options.rounds)
            for clients in options.clients
        }
    document = _document(options, contenders, results)
    print(_markdown(document) if options.markdown else _table(document))
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="by default 5")
    parser.add_argument("--requests", type=int, default=300, help="of each client and round; by default 300")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4], help="at once; by default 1 and 4")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args()


@contextlib.contextmanager
def _cloud(state: Path) -> Iterator[Path]:
    """Run a local cloud with a class key; give its state folder."""
    up = [_local_cloud(), "up", "--state", state]
    with subprocess.Popen(up, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or not process.stdout.readline().startswith("ready"):
                sys.exit("bench: the local cloud did not start")
            subprocess.run(
                [_local_cloud(), "provision", KEY_NAME, "--state", state], check=True, capture_output=True
            )
            yield state
        finally:
            process.terminate()


def _local_cloud() -> Path:
    return Path(sys.executable).with_name("local-cloud")


def _contenders(state: Path, machine: Path) -> list[Contender]:
    certify = [_local_cloud(), "certify-build", "bench", "--out", machine, "--state", state]
    subprocess.run(certify, check=True, capture_output=True)
    cloud = json.loads((state / "cloud.json").read_text())
    private_key = load_pem_private_key((machine / "build.key").read_bytes(), None)
    spki = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    body = json.dumps(
        {
            "key_name": KEY_NAME,
            "client_public_key": b64encode(spki).decode(),
            "client_cert": (machine / "build.pem").read_text(),
        }
    ).encode()
    key = {"x-functions-key": cloud["functions"]["keys"]["wrap"]}
    url, trust = cloud["functions"]["url"], ssl.create_default_context(cafile=cloud["hub"]["ca_file"])
    return [
        Contender(
            name="wrap",
            what="WrapKey",
            connect=lambda: _https(url, trust, method="POST", path="/api/WrapKey", body=body, headers=key),
        ),
        Contender(name="direct", what="the same, no HTTP", connect=lambda: _direct(cloud, body)),
        Contender(
            name="health",
            what="HTTP alone (health)",
            connect=lambda: _https(url, trust, path="/api/health"),
        ),
    ]


def _https(
    url: str,
    trust: ssl.SSLContext,
    *,
    method: str = "GET",
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Call:
    connection = http.client.HTTPSConnection(urlsplit(url).netloc, context=trust, timeout=60)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call() -> None:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{path}: {answer.status}")

    return call


def _direct(cloud: dict[str, object], body: bytes) -> Call:
    """Do what WrapKey does between reading the request and writing the answer, with the class key open."""
    policy = load_policy(Path(str(cloud["policy_file"])).read_bytes(), where="policy")
    trust = TrustStore.from_pem(Path(str(cloud["fleet_ca_file"])).read_bytes(), where="roots")
    class_key = Secret(os.urandom(32))

    def call() -> None:
        at, asked = dt.datetime.now(dt.UTC), WrapRequest.parse(body)
        path, _ = verify_chain(asked.certificates, trust, at=at)
        claims = certificate_claims(path, spki=asked.public_key.spki, device_id=None)
        answer = evaluate(policy, operation=Operation.WRAP, key_name=asked.key_name, claims=claims, at=at)
        if not isinstance(answer, Allowed):
            raise TypeError(f"denied: {answer}")
        context = WrapContext(audience="local", device_id="bench", name=asked.key_name, version=1)
        wrap_key(class_key, asked.public_key, answer.algorithms[0], context=context)

    return call


@contextlib.contextmanager
def _tang(folder: Path) -> Iterator[list[Contender]]:
    """Run Tang if it is installed; give it as a contender."""
    if not TANG.exists():
        print("bench: no tang (apt-get install tang), measuring without it", file=sys.stderr)
        yield []
        return
    keys = folder / "tang"
    keys.mkdir()
    subprocess.run([TANG.with_name("tangd-keygen"), keys], check=True, capture_output=True)
    exchange = next(
        file.stem for file in keys.glob("*.jwk") if json.loads(file.read_text()).get("alg") == "ECMR"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_inetd, args=(listener, keys), daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        body = json.dumps(_ecmr_jwk()).encode()
        yield [
            Contender(
                name="tang", what="Tang, no TLS", connect=lambda: _tang_client(port, f"/rec/{exchange}", body)
            )
        ]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _inetd(listener: socket.socket, keys: Path) -> None:
    """Start a tangd for each connection, as systemd does."""
    running: list[subprocess.Popen[bytes]] = []
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            break
        with connection:
            daemon = subprocess.Popen(
                [TANG, keys], stdin=connection, stdout=connection, stderr=subprocess.DEVNULL
            )
        running = [each for each in running if each.poll() is None] + [daemon]
    for each in running:
        each.wait()


def _ecmr_jwk() -> dict[str, str]:
    numbers = ec.generate_private_key(ec.SECP521R1()).public_key().public_numbers()
    x, y = (urlsafe_b64encode(n.to_bytes(66, "big")).rstrip(b"=").decode() for n in (numbers.x, numbers.y))
    return {"alg": "ECMR", "kty": "EC", "crv": "P-521", "x": x, "y": y, "key_ops": ["deriveKey"]}


def _tang_client(port: int, path: str, body: bytes) -> Call:
    def call() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", path, body, {"Content-Type": "application/jwk+json"})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{path}: {answer.status}")

    return call


def _measure(
    contenders: list[Contender], *, clients: int, requests: int, rounds: int
) -> dict[str, list[Run]]:
    """Return each contender's runs; in each round all of them run once, in another order."""
    order, runs = random.Random(rounds), {contender.name: [] for contender in contenders}
    for contender in contenders:  # warms caches, does not count
        _run(contender, clients=clients, requests=max(1, requests // 10))
    for number in range(rounds):
        print(f"bench: {clients} clients, round {number + 1} of {rounds}", file=sys.stderr)
        for contender in order.sample(contenders, len(contenders)):
            runs[contender.name].append(_run(contender, clients=clients, requests=requests))
    return runs


def _run(contender: Contender, *, clients: int, requests: int) -> Run:
    calls = [contender.connect() for _ in range(clients)]
    latencies: list[float] = []
    errors: list[Exception] = []

    def client(call: Call) -> None:
        own = []
        try:
            for _ in range(requests):
                start = time.perf_counter()
                call()
                own.append(time.perf_counter() - start)
        except Exception as error:  # noqa: BLE001 - told below; a thread's own error would be lost
            errors.append(error)
        latencies.extend(own)

    threads = [threading.Thread(target=client, args=(call,)) for call in calls]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - start
    if errors:
        raise errors[0]
    centiles = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else latencies * 99
    return Run(p50=centiles[49] * 1e3, p99=centiles[98] * 1e3, rate=len(latencies) / wall)


def _document(
    options: argparse.Namespace, contenders: list[Contender], results: dict[int, dict[str, list[Run]]]
) -> dict[str, object]:
    return {
        "machine": {
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "cryptography": cryptography.__version__,
            "tang": _tang_version(),
            "load_average": os.getloadavg()[0],
        },
        "rounds": options.rounds,
        "requests": options.requests,
        "what": {contender.name: contender.what for contender in contenders},
        "clients": {
            str(clients): {
                name: {
                    "p50_ms": Spread.of([run.p50 for run in runs]).document(),
                    "p99_ms": Spread.of([run.p99 for run in runs]).document(),
                    "requests_per_second": Spread.of([run.rate for run in runs]).document(),
                }
                for name, runs in by_name.items()
            }
            for clients, by_name in results.items()
        },
    }


def _tang_version() -> str | None:
    if not TANG.exists() or shutil.which("dpkg-query") is None:
        return None
    query = ["dpkg-query", "-W", "-f", "${Version}", "tang"]
    return subprocess.run(query, check=False, capture_output=True, text=True).stdout or None


_COLUMNS = ("p50_ms", "p99_ms", "requests_per_second")
_HEADINGS = ("p50, ms", "p99, ms", "requests/s")


def _rows(document: dict) -> Iterator[list[str]]:
    for clients, by_name in document["clients"].items():
        for name, figures in by_name.items():
            spreads = [Spread(**figures[column]) for column in _COLUMNS]
            yield [document["what"][name], clients, *map(str, spreads)]


def _table(document: dict) -> str:
    rows = [["", "clients", *_HEADINGS], *_rows(document)]
    return "\n".join(
        f"{what:22} {clients:>7}  {p50:22} {p99:22} {rate}" for what, clients, p50, p99, rate in rows
    )


def _markdown(document: dict) -> str:
    rows = [["", "clients", *_HEADINGS], ["---", "--:", "--:", "--:", "--:"], *_rows(document)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
