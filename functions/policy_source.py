"""The release policy as it is in force now: looked at again and again, and never taken on trust (section 7).

A document comes into force if it loads and the floor admits it; from then on the floor is its own. A document
that is broken, rolled back or out of reach changes nothing: the last good one stays in force, until its own
``not_after`` or until the source has not confirmed it for the maximum age, and the log, a metric and
:meth:`PolicySource.status` say so. Without a good one nothing is in force, and everything is denied.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from functions import telemetry
from shared.errors import Conflict, EdbError, TransportError
from shared.policy.document import load_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.policy.document import Policy
    from shared.policy.floor import Floor

REFRESH_SECONDS = 30
"""How often the source is looked at, where no setting says otherwise."""

MAX_AGE_SECONDS = 86_400
"""How long a policy stays in force that its source does not confirm, where no setting says otherwise."""

_RETRY_SECONDS = 5.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPolicy:
    """A document as it rests.

    Args:
        data: Its bytes.
        etag: Changes with them; quoted, as HTTP has it.
    """

    data: bytes
    etag: str


class PolicyStore(Protocol):
    """Where the policy document rests.

    All operations raise :class:`shared.errors.TransportError` if it cannot be reached.
    """

    def read(self, *, unless: str | None) -> StoredPolicy | None:
        """Return the document; None if its ETag is still ``unless``.

        Raises:
            NotFound: ``policy_missing``; there is none.
        """
        ...

    def write(self, data: bytes, *, etag: str | None) -> str:
        """Put a document in the place of the one with this ETag; return the new ETag.

        Args:
            data: All of its bytes.
            etag: None means that there must be none yet.

        Raises:
            Conflict: ``policy_changed``; somebody else was faster. ``policy_read_only``; it rests where
                this app may not write.
        """
        ...


class FloorStore(Protocol):
    """Where the floor under the serial rests: out of reach of who can write the document.

    All operations raise :class:`shared.errors.TransportError` if it cannot be reached.
    """

    def read(self) -> Floor:
        """Return the floor."""
        ...

    def raise_to(self, policy: Policy) -> None:
        """Raise the floor to this policy; it never falls, whoever else raises it at the same time."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """A policy in force, with its bytes as loaded and their ETag."""

    policy: Policy
    data: bytes
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStatus:
    """What is to be told of the policy.

    Args:
        in_force: The policy, or None: everything is denied.
        age_seconds: Since the source last confirmed it; None without one.
        fault: What was wrong at the last look; None if nothing was.
    """

    in_force: InForce | None
    age_seconds: float | None
    fault: EdbError | None


class PolicySource:
    """The policy in force; may be used from several threads.

    Args:
        store: Where the document rests.
        floor: Where the floor rests.
        refresh_seconds: How often the store is looked at.
        max_age_seconds: How long a policy stays in force that the store does not confirm.
        monotonic: A clock in seconds that never goes back.
    """

    def __init__(
        self,
        store: PolicyStore,
        floor: FloorStore,
        *,
        refresh_seconds: float = REFRESH_SECONDS,
        max_age_seconds: float = MAX_AGE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._floor = floor
        self._refresh_seconds = refresh_seconds
        self._max_age_seconds = max_age_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._held: InForce | None = None
        self._confirmed_at = 0.0
        self._next_look = float("-inf")
        self._fault: EdbError | None = None

    def current(self) -> InForce:
        """Return the policy in force; the store was looked at at most ``refresh_seconds`` ago.

        Raises:
            TransportError: ``policy_unavailable``; none is in force.
        """
        if self._monotonic() >= self._next_look and self._lock.acquire(blocking=self._held is None):
            # While one thread looks, the others go on with what is in force.
            try:
                if self._monotonic() >= self._next_look:
                    self._look()
            finally:
                self._lock.release()
        in_force = self.status().in_force
        if in_force is None:
            raise TransportError("no release policy is in force", code="policy_unavailable")
        return in_force

    def publish(self, data: bytes, *, etag: str | None) -> InForce:
        """Put a policy in force, here at once and elsewhere with the next look.

        Args:
            data: The document.
            etag: The ETag that the document in the store has to have; None if any will do.

        Raises:
            FormatError: It is no policy.
            Conflict: ``policy_serial``, its serial does not rise; ``policy_changed``, the document in the
                store is not the one with that ETag; ``policy_read_only``.
        """
        policy = load_policy(data, where="request body")
        with self._lock:
            stored = self._stored()
            if etag is not None and (stored is None or stored.etag != etag):
                raise Conflict("the policy was changed in between", code="policy_changed")
            highest = max(self._floor.read().serial, _serial_of(stored))
            if policy.serial <= highest:
                raise Conflict(
                    f"/serial: expected more than {highest}, found {policy.serial}", code="policy_serial"
                )
            new_etag = self._store.write(data, etag=None if stored is None else stored.etag)
            # The document first: a floor above the document in the store would deny everything.
            self._floor.raise_to(policy)
            self._confirm(InForce(policy=policy, data=data, etag=new_etag))
            return self._held_or_fail()

    def status(self) -> PolicyStatus:
        """Return what is in force, without a look at the store."""
        held, fault = self._held, self._fault
        if held is None:
            return PolicyStatus(in_force=None, age_seconds=None, fault=fault)
        age = self._monotonic() - self._confirmed_at
        return PolicyStatus(
            in_force=held if age < self._max_age_seconds else None, age_seconds=age, fault=fault
        )

    def looked_at(self) -> PolicyStatus:
        """Return what is in force after the look that is due, whichever thread makes it."""
        with self._lock:
            if self._monotonic() >= self._next_look:
                self._look()
        return self.status()

    def observe(self) -> None:
        """Tell serial and age as metrics."""
        telemetry.observe(telemetry.POLICY_AGE, lambda: self.status().age_seconds)
        telemetry.observe(telemetry.POLICY_SERIAL, self._serial)

    def _serial(self) -> float | None:
        in_force = self.status().in_force
        return None if in_force is None else in_force.policy.serial

    def _look(self) -> None:
        """Look at the store; whatever is found there, what is in force is good."""
        try:
            stored = self._store.read(unless=None if self._held is None else self._held.etag)
            held = self._held_or_fail() if stored is None else self._admitted(stored)
        except EdbError as error:
            wait = self._refresh_seconds
            self._next_look = self._monotonic() + (min(wait, _RETRY_SECONDS) if self._held is None else wait)
            self._complain(error)
        else:
            self._confirm(held)

    def _admitted(self, stored: StoredPolicy) -> InForce:
        policy = load_policy(stored.data, where="policy")
        if self._held is None or self._held.policy.digest != policy.digest:
            floor = self._floor.read()
            floor.admit(policy, where="policy")
            if policy.serial > floor.serial:
                self._floor.raise_to(policy)
        return InForce(policy=policy, data=stored.data, etag=stored.etag)

    def _confirm(self, held: InForce) -> None:
        if self._held is None or self._held.policy.digest != held.policy.digest:
            _LOG.info(
                "policy_in_force",
                extra={"serial": held.policy.serial, "policy_sha256": held.policy.digest.hex()},
            )
        self._held = held
        self._fault = None
        self._confirmed_at = self._monotonic()
        self._next_look = self._confirmed_at + self._refresh_seconds

    def _complain(self, fault: EdbError) -> None:
        telemetry.add(telemetry.POLICY_FAULTS, code=fault.code)
        if self._fault is None or str(self._fault) != str(fault):
            held = self._held
            _LOG.error(
                "policy_not_taken",
                extra={
                    "code": fault.code,
                    "detail": str(fault),
                    "serial_in_force": None if held is None else held.policy.serial,
                },
            )
        self._fault = fault

    def _stored(self) -> StoredPolicy | None:
        try:
            return self._store.read(unless=None)
        except EdbError as error:
            if error.code != "policy_missing":
                raise
            return None

    def _held_or_fail(self) -> InForce:
        if self._held is None:
            raise TransportError("the policy's source answered nothing", code="policy_unavailable")
        return self._held


def _serial_of(stored: StoredPolicy | None) -> int:
    """Return the serial of what rests in the store; what does not load has none."""
    if stored is None:
        return -1
    try:
        return load_policy(stored.data, where="policy").serial
    except EdbError:
        return -1
