"""The function app on simulators, called as the host calls it: requests, queue messages, events."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from typing import TYPE_CHECKING
from urllib.parse import quote

import azure.functions as func
from azure.functions.meta import Datum
from azure.functions.queue import QueueMessage
from cryptography.hazmat.primitives.serialization import Encoding
from simulators.cloud import AUDIENCE, Cloud
from simulators.described import DescribedApi
from simulators.fleet import policy_document

from functions.adapters.policy_file import FilePolicyStore
from functions.app import build_app
from functions.services import Services, assemble

if TYPE_CHECKING:
    from pathlib import Path


class Output(func.Out):
    """An output binding that keeps what is set."""

    def __init__(self) -> None:
        self._value = None

    def set(self, val) -> None:
        self._value = val

    def get(self):
        return self._value


class Reply:
    """A response, its document read."""

    def __init__(self, response: func.HttpResponse) -> None:
        self.status = response.status_code
        self.headers = dict(response.headers)
        self.body = response.get_body()
        self.document = json.loads(self.body)


def environment(
    cloud: Cloud, folder: Path, *, policy_changes: dict[str, object] | None = None, **changes: str | None
) -> dict[str, str]:
    """Return settings as the host gives them, with the files that they name; None leaves one out."""
    policy = folder / "policy.json"
    policy.write_text(json.dumps(policy_document(cloud.authority.root_sha256, **policy_changes or {})))
    roots = folder / "roots.pem"
    roots.write_bytes(cloud.authority.root.public_bytes(Encoding.PEM))
    values = {
        "EDB_AUDIENCE": AUDIENCE,
        "EDB_KEY_VAULT_URL": "https://vault.test/",
        "EDB_IOT_HUB_HOSTNAME": "hub.test:8443",
        "EDB_POLICY_FILE": str(policy),
        "EDB_AUDIT_FOLDER": str(folder / "audit"),
        "EDB_TRUSTED_ROOTS_FILE": str(roots),
        "EDB_DISTRIBUTE_SCHEDULE": "0 */5 * * * *",
        "EDB_TWIN_EVENTS_HUB": "twin-events",
        **changes,
    }
    return {name: value for name, value in values.items() if value is not None}


class App:
    """The app; ``queues`` holds what it put on queues and nobody took yet.

    Args:
        cloud: What it works with.
        folder: For the files that its settings name.
        policy_changes: Of the policy.
        changes: Of the settings.

    Attributes:
        function_key: Sent with every request, in the header and in the query, as the platform hands it on.
        replies: Every answer.
    """

    function_key: str | None = None

    def __init__(
        self,
        cloud: Cloud,
        folder: Path,
        *,
        policy_changes: dict[str, object] | None = None,
        **changes: str,
    ) -> None:
        self.cloud = cloud
        self.policy_file = folder / "policy.json"
        self.queues: dict[str, list[str]] = defaultdict(list)
        self.replies: list[Reply] = []
        settings = environment(cloud, folder, policy_changes=policy_changes, **changes)
        app = build_app(settings, connect_services=self._connect)
        self.functions = {function.get_function_name(): function for function in app.get_functions()}
        self.described = DescribedApi(self._send("OpenApi", b"", method="GET").document)

    def request(
        self, name: str, body: object = None, *, method="POST", headers=None, route=None, params=None
    ) -> Reply:
        """Send a request; its answer is held to the OpenAPI document."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        reply = self._send(name, data, method=method, headers=headers, route=route, params=params)
        self.described.check(name, method, reply)
        return reply

    def _send(self, name: str, data: bytes, *, method, headers=None, route=None, params=None) -> Reply:
        key = self.function_key
        request = func.HttpRequest(
            method=method,
            url=f"https://app.test/api/{name}" + (f"?code={quote(key)}" if key else ""),
            headers={**({"x-functions-key": key} if key else {}), **(headers or {})},
            params={**({"code": key} if key else {}), **(params or {})},
            route_params=route or {},
            body=data,
        )
        reply = Reply(self._invoke(name, req=request))
        self.replies.append(reply)
        return reply

    def tick(self) -> None:
        """Let the timer go off, and take the pass that it asks for as far as pages on the queue."""
        self._invoke("DistributeKeyTimer", timer=None)
        while self.queues["distribute-passes"]:
            self.message("DistributeKeyPass", self.queues["distribute-passes"].pop(0))

    def vault_event(self, event_type: str, subject: str) -> None:
        """Deliver an event of the vault, as Event Grid does."""
        event = func.EventGridEvent(
            id="1",
            data={},
            topic="/vaults/vault",
            subject=subject,
            event_type=event_type,
            event_time=dt.datetime.now(dt.UTC),
            data_version="1",
        )
        self._invoke("DistributeKeyVaultEvents", event=event)

    def message(self, name: str, text: str, *, tries: int = 1) -> None:
        """Deliver a queue message; it was delivered ``tries`` times by now."""
        self._invoke(name, message=QueueMessage(id="1", body=text.encode(), dequeue_count=tries))

    def drain(self) -> None:
        """Take everything from the queues, as the host would, until they are empty."""
        takers = {
            "distribute-passes": "DistributeKeyPass",
            "distribute-pages": "DistributeKeyPage",
            "distribute-passes-poison": "DistributeKeyPassPoison",
            "distribute-pages-poison": "DistributeKeyPagePoison",
        }
        while any(self.queues.values()):
            for queue, taker in takers.items():
                pending, self.queues[queue] = self.queues[queue], []
                for text in pending:
                    self.message(taker, text)

    def events(self, *events: tuple[dict[str, object], dict[str, object]]) -> None:
        """Deliver a batch of events, each ``(application properties, body)``."""
        metadata = {"PropertiesArray": Datum(json.dumps([properties for properties, _ in events]), "json")}
        batch = [
            func.EventHubEvent(
                body=body if isinstance(body, bytes) else json.dumps(body).encode(),
                trigger_metadata=metadata,
                enqueued_time=dt.datetime.now(dt.UTC),
            )
            for _, body in events
        ]
        self._invoke("DistributeKeyTwinEvents", events=batch)

    def _invoke(self, name: str, **arguments):
        function = self.functions[name]
        outputs = {
            binding.name: (Output(), binding.queue_name)
            for binding in function.get_bindings()
            if binding.get_binding_name() == "queue"
        }
        for argument, (output, _) in outputs.items():
            arguments[argument] = output
        result = function.get_user_function()(**arguments)
        for output, queue in outputs.values():
            value = output.get()
            self.queues[queue].extend([value] if isinstance(value, str) else value or [])
        return result

    def _connect(self, settings) -> Services:
        return services_of(self.cloud, settings)


def services_of(cloud: Cloud, settings) -> Services:
    """Return the services of the app over a simulated cloud."""
    return assemble(
        settings,
        store=cloud.store,
        kek=cloud.kek,
        registry=cloud.registry,
        signer=cloud.signer,
        policy_store=FilePolicyStore(settings.policy_file),
        policy_floor=cloud.floor,
        audit_segments=cloud.segments,
        monotonic=cloud.seconds,
        now=lambda: cloud.at,
    )
