"""Health: whether the app has started; Ready: whether what it works with is there."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from functions import deadline
from functions.contract import Call, Contract, HttpFunctions, Tag
from functions.endpoint import NotReadyError
from functions.token_bucket import BusyError
from shared.errors import Conflict, EdbError, NotFound, VerificationError
from shared.types import DeviceId, KeyName
from shared.wire.http import HealthAnswer, ReadyAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from functions.services import Services
    from shared.types import Audience

CHECK_SECONDS = 5.0
"""How long the checks may take together; what has not answered by then is not ready."""

# Names that need not exist: that there is nothing under them is an answer of whom was asked.
_PROBE_KEY, _PROBE_DEVICE = KeyName("readiness-probe"), DeviceId("readiness-probe")

_LOG = logging.getLogger(__name__)

HEALTH = Contract(
    name="Health",
    method="GET",
    route="health",
    tag=Tag.HEALTH,
    summary="Whether the app has started; asks neither vault nor hub",
    answer=HealthAnswer,
    needs_key=False,
    needs_cloud=False,
)
READY = Contract(
    name="Ready",
    method="GET",
    route="health/ready",
    tag=Tag.HEALTH,
    summary="Whether the vault's keys can be read, the hub answers, policy and audit are in force",
    answer=ReadyAnswer,
    problems=("not_ready",),
    needs_cloud=False,
)


def blueprint(services: Callable[[], Services], *, audience: Audience) -> HttpFunctions:
    """Return the functions.

    Args:
        services: Puts the services together at the first call.
        audience: The deployment's id.
    """
    functions = HttpFunctions()
    parts = {name: _Part(partial(_check, check, services)) for name, check in _CHECKS.items()}

    @functions.serve(HEALTH)
    def health(_call: Call) -> HealthAnswer:
        return HealthAnswer(audience=audience)

    @functions.serve(READY)
    def ready(call: Call) -> ReadyAnswer:
        end = time.monotonic() + CHECK_SECONDS
        begun = {name: part.begin() for name, part in parts.items()}
        states = {
            name: "ready" if _holds(name, check, call, until=end) else "not_ready"
            for name, check in begun.items()
        }
        if "not_ready" in states.values():
            raise NotReadyError(states)
        return ReadyAnswer(parts=states)

    return functions


class _Part:
    """A check that runs at most once at a time: one that hangs is waited for again, not begun again.

    Args:
        check: Raises if the part is not ready.
    """

    def __init__(self, check: Callable[[], object]) -> None:
        self._check = check
        self._lock = threading.Lock()
        self._running: Future[None] | None = None

    def begin(self) -> Future[None]:
        """Return the check that runs; a new one if none does."""
        with self._lock:
            if self._running is None or self._running.done():
                self._running = Future()
                # A daemon, not a pool's: a check that hangs must not keep the process from ending.
                threading.Thread(target=self._run, args=(self._running,), daemon=True).start()
            return self._running

    def _run(self, outcome: Future[None]) -> None:
        try:
            self._check()
        except Exception as error:  # noqa: BLE001 - the thread's end; whatever it is, the part is not ready
            outcome.set_exception(error)
        else:
            outcome.set_result(None)


def _holds(name: str, check: Future[None], call: Call, *, until: float) -> bool:
    try:
        check.result(timeout=max(0.0, until - time.monotonic()))
    except Exception as error:  # noqa: BLE001 - the caller is told that much, the log the rest
        code = error.code if isinstance(error, EdbError) else type(error).__name__
        _LOG.warning(
            "part_not_ready",
            extra={
                "part": name,
                "code": code,
                "detail": str(error),
                "correlation_id": call.correlation_id,
            },
        )
        return False
    return True


def _check(check: Callable[[Services], object], services: Callable[[], Services]) -> None:
    # Where our own rate leaves no room for a question, nothing is wrong with whom it would be asked.
    with suppress(NotFound, Conflict, BusyError), deadline.within(CHECK_SECONDS / 2):
        check(services())


def _require_policy_in_force(services: Services) -> None:
    policy = services.policies.current().policy
    if policy.not_after is not None and services.now() >= policy.not_after:
        raise VerificationError(f"policy {policy.id} serial {policy.serial} has ended", code="policy_expired")


def _require_sound_policy_source(services: Services) -> None:
    """Tell of what is no reason to deny yet: the last good policy is in force, and its source has another."""
    fault = services.policies.looked_at().fault
    if fault is not None:
        raise VerificationError(str(fault), code=fault.code)


_CHECKS: Mapping[str, Callable[[Services], object]] = {
    "key_encryption_key": lambda services: services.kek.current(),
    "release_key": lambda services: services.signer.key_id(),
    "class_keys": lambda services: services.class_keys.state(_PROBE_KEY),
    "hub": lambda services: services.registry.read(_PROBE_DEVICE),
    "policy": _require_policy_in_force,
    "policy_source": _require_sound_policy_source,
    "audit": lambda services: services.audit.check(),
}
