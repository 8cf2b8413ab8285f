"""Instances of the function app: its real functions, called as the platform does, over ports that fail."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING

import azure.functions as func
from azure.functions.meta import Datum
from azure.functions.queue import QueueMessage
from simulators.app import Output
from simulators.campaign.hub import HubPort
from simulators.cloud import AUDIENCE

from functions import distribute_key, key_lifecycle, provision_key, release_policy, rollout, set_aside
from functions.audit import AuditLog
from functions.audit_chain import AuditChain
from functions.class_keys import ClassKeys
from functions.policy_source import PolicySource, StoredPolicy
from functions.services import Services
from functions.trust import TrustSource
from shared.errors import Conflict, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulators.campaign.campaign import Campaign

REFRESH_SECONDS = 30.0
_KEY_CHANGES = frozenset({"create", "add_version", "set_rollout", "raise_floor", "delete", "recover"})


class MemoryPolicies:
    """A :class:`functions.policy_source.PolicyStore`; ``changed`` is told of each document."""

    def __init__(self, changed: Callable[[bytes], None]) -> None:
        self._stored: StoredPolicy | None = None
        self._changed = changed
        self._number = 0

    def read(self, *, unless: str | None) -> StoredPolicy | None:
        if self._stored is None:
            raise NotFound("there is no policy", code="policy_missing")
        return None if self._stored.etag == unless else self._stored

    def write(self, data: bytes, *, etag: str | None) -> str:
        if etag != (None if self._stored is None else self._stored.etag):
            raise Conflict("the policy was changed in between", code="policy_changed")
        self._number += 1
        self._stored = StoredPolicy(data=data, etag=f'"{self._number}"')
        self._changed(data)
        return self._stored.etag


class Port:
    """Everything behind a port, with chaos before it.

    Args:
        campaign: The world.
        place: Where it is.
        target: What is behind it.
        done: Told of each call that took effect, by name.
        answered: Told of each call whose answer came, by name and by the number of the event at which it
            took effect.
    """

    def __init__(self, campaign: Campaign, place: str, target: object, *, done=None, answered=None) -> None:
        self._campaign, self._place, self._target = campaign, place, target
        self._done, self._answered = done, answered

    def __getattr__(self, name: str):
        act = getattr(self._target, name)

        def call(*arguments, **options):
            def effect():
                answer = act(*arguments, **options)
                if self._done is not None:
                    self._done(name)
                return answer, self._campaign.log.tick()

            answer, number = self._campaign.chaos.call(self._place, name, effect)
            if self._answered is not None:
                self._answered(name, number)
            return answer

        return call


def _if_keys_change(look: Callable[[], None]) -> Callable[[str], None]:
    return lambda name: look() if name in _KEY_CHANGES else None


class Instance:
    """One instance of the function app.

    Attributes:
        name: Of its clock, too.
        is_busy: Whether it is in the middle of a call.
        began, began_at: Number of the event at which its present call began, and when that was.
        policy_seen: Number of the event at which it read the policy that is in force there.
        policy_taken: The same when its present call began; the call may go on with that policy.
    """

    def __init__(self, campaign: Campaign, name: str) -> None:
        self.name = name
        self._campaign = campaign
        self.is_busy = False
        self.began_at = campaign.time.at
        self.began = self.policy_seen = self.policy_taken = self._policy_read = 0
        self._confirmed_at: float | None = None
        self.services: Services | None = None
        app = func.FunctionApp()
        for module in (distribute_key, set_aside, provision_key, key_lifecycle, rollout, release_policy):
            app.register_functions(module.blueprint(self._connected))
        self._functions = {}
        for function in app.get_functions():
            outputs = {
                binding.name: binding.queue_name
                for binding in function.get_bindings()
                if binding.get_binding_name() == "queue"
            }
            self._functions[function.get_function_name()] = (function.get_user_function(), outputs)

    def die(self) -> None:
        """Lose everything that is in memory."""
        if self.services is not None and self.services.class_keys._sweeper is not None:
            self.services.class_keys._sweeper.cancel()
        self.services = None

    def _connected(self) -> Services:
        if self.services is None:
            self.services = self._connect()
        return self.services

    def _connect(self) -> Services:
        campaign = self._campaign
        now, seconds = campaign.time.clock(self.name), campaign.time.seconds
        store = Port(campaign, "vault", campaign.store, done=_if_keys_change(campaign.oracle.look_at_keys))
        kek = Port(campaign, "vault", campaign.kek)
        policies = PolicySource(
            Port(campaign, "policy", campaign.policies, answered=self._read_policy),
            Port(campaign, "vault", campaign.floor),
            refresh_seconds=REFRESH_SECONDS,
            monotonic=seconds,
        )
        chain = AuditChain(Port(campaign, "audit", campaign.segments), pause=lambda _: None)
        return Services(
            audience=AUDIENCE,
            policies=policies,
            audit=AuditLog(chain, now=now),
            trust_source=TrustSource(campaign.authority.trust, None),
            entra_in_front=False,
            class_keys=ClassKeys(store, kek, now=now, monotonic=seconds),
            kek=kek,
            registry=HubPort(campaign.hub, campaign.chaos, page_size=campaign.page_size, written=self._wrote),
            signer=Port(campaign, "vault", campaign.signer),
            now=now,
        )

    def _read_policy(self, name: str, number: int) -> None:
        if name == "read":
            self.look_at_policy()
            self._policy_read = number

    def look_at_policy(self) -> None:
        """Take note of whether what was read last of the policy's source came into force.

        A document whose serial cannot be held against the floor, because the vault is away, does not.
        """
        confirmed_at = None if self.services is None else self.services.policies._confirmed_at
        if confirmed_at != self._confirmed_at:
            self._confirmed_at, self.policy_seen = confirmed_at, self._policy_read

    def _wrote(self, device_id, before, after) -> None:
        self.look_at_policy()
        self._campaign.oracle.look_at_write(self, device_id, before, after)

    def call(self, name: str, **arguments) -> tuple[object, dict[str, list[str]]]:
        """Call a function; return its result, and what it puts on which queue.

        Raises:
            Killed: The instance died.
            Exception: Whatever the function raised.
        """
        code, outputs = self._functions[name]
        values = {argument: Output() for argument in outputs}
        self.look_at_policy()
        self.began, self.began_at = self._campaign.log.tick(), self._campaign.time.at
        self.policy_taken, self.is_busy = self.policy_seen, True
        try:
            result = code(**arguments, **values)
        finally:
            self.is_busy = False
        put: dict[str, list[str]] = {}
        for argument, value in values.items():
            given = value.get()
            put.setdefault(outputs[argument], []).extend([given] if isinstance(given, str) else given or [])
        return result, put


def queue_message(text: str, *, tries: int = 1) -> func.QueueMessage:
    return QueueMessage(id="1", body=text.encode(), dequeue_count=tries)


def event_batch(events: list[dict]) -> list[func.EventHubEvent]:
    """Return the hub's change events as a trigger delivers them."""
    properties = json.dumps([event["properties"] for event in events])
    metadata = {"PropertiesArray": Datum(properties, "json")}
    return [
        func.EventHubEvent(
            body=json.dumps(event["body"]).encode(),
            trigger_metadata=metadata,
            enqueued_time=dt.datetime.now(dt.UTC),
        )
        for event in events
    ]


def http_request(name: str, body: bytes, *, method: str, headers: dict[str, str]) -> func.HttpRequest:
    return func.HttpRequest(
        method=method,
        url=f"https://app.test/api/{name}",
        headers=headers,
        params={},
        route_params={},
        body=body,
    )
