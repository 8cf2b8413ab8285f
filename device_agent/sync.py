"""Keeping the twin and the CPM in step (protocol section 6): the agent itself.

One thread and no clock of its own: events are handed to :meth:`Agent.handle`, :meth:`Agent.advance` does all
that can be done now, and :meth:`Agent.seconds_to_wait` says for how long nothing will be due. The rules stand
in :mod:`device_agent.decisions`; the methods here are their actions.

What the hub has not acknowledged is not taken as reported, and a failed call to the hub drops the connection,
since afterwards nothing about it is sure.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from device_agent.cpm_watch import CpmWatch
from device_agent.decisions import Action, Situation, next_action
from device_agent.device_clock import is_plausible, wall_clock
from device_agent.handover import Outcome, failed_keys, hand_over, made_for
from device_agent.health import COUNTS, Health, Tally
from device_agent.hub_watch import HubWatch
from device_agent.renewal import Renewer
from device_agent.report import IDENTITY, open_patch, wanted_report
from device_agent.twin_link import DesiredPatch, Event, Notify, TwinLink
from device_agent.twin_view import TwinView
from shared.encoding import encode_base64
from shared.errors import FormatError, StorageError, TransportError
from shared.twin.documents import PUBLIC_KEY, STATUS, DesiredKeys, KeyReport, parse_desired

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from device_agent.certificate import CertificateFile
    from device_agent.cpm_client import CpmClient
    from device_agent.device_clock import Clock
    from device_agent.settings import Renewal
    from device_agent.state import AgentState, StateFolder
    from shared.types import KeyName

POLL_SECONDS = 10.0
"""How often the CPM's status and the certificate file are looked at."""

CPM_MISSED_SECONDS = 60.0
"""A CPM that is away for longer than a restart takes is reported."""

MAX_TOLD = 64
"""Faults that are remembered as told; whoever writes the twin can make up new ones for ever."""

_log = logging.getLogger("device_agent")


class Agent:
    """The device agent.

    Args:
        link: The twin.
        cpm: The package manager beside it.
        certificate: The device's certificate.
        state: What is remembered over a restart.
        notify: Where the link's events are to go; somebody hands them to :meth:`handle`.
        renewal: How the certificate is renewed; None leaves that to others.
        device_roots: PEM roots that a renewed certificate is held to, if any.
        clock: Monotonic seconds.
        wall: Unix seconds.
    """

    def __init__(
        self,
        *,
        link: TwinLink,
        cpm: CpmClient,
        certificate: CertificateFile,
        state: StateFolder,
        notify: Notify,
        renewal: Renewal | None = None,
        device_roots: str | None = None,
        clock: Clock = time.monotonic,
        wall: Clock = wall_clock,
    ) -> None:
        self._link, self._cpm, self._certificate, self._state = link, cpm, certificate, state
        self._clock, self._wall, self._started = clock, wall, wall()
        self._tally = Tally(clock=wall)
        self._memory: AgentState = state.load()
        self._watch = CpmWatch(cpm, self._tally, clock)
        self._hub = HubWatch(link, notify=notify, tally=self._tally, clock=clock, wall=wall)
        self._renewer = Renewer(
            renewal,
            certificate=certificate,
            device_id=link.device_id,
            roots=device_roots,
            tally=self._tally,
            clock=clock,
            wall=wall,
        )
        self._twin = TwinView()
        self._errors: Mapping[KeyName, KeyReport] = {}
        self._refused: Mapping[str, object] | None = None
        self._told: set[str] = set()
        self._poll_due = clock() + POLL_SECONDS
        certificate.refresh()

    def handle(self, event: Event) -> None:
        """Take in what the hub said; nothing is done about it before :meth:`advance`."""
        if isinstance(event, DesiredPatch):
            self._twin.patch_desired(event.document)
        else:
            self._twin.doubt()  # that the connection is lost shows on the link itself

    def advance(self) -> None:
        """Do everything that can be done now."""
        while (action := next_action(self._situation())) is not None:
            _ACTIONS[action](self)

    def seconds_to_wait(self) -> float:
        """Return for how long nothing will be due if no event comes."""
        dues = [self._poll_due]
        if not self._hub.online:
            dues.append(self._hub.due)
        if not self._watch.known or self._twin.desired_open:
            dues.append(self._watch.due)
        now = self._clock()
        return min((due - now for due in dues if due > now), default=0.0)

    def health(self) -> Health:
        """Return how it is doing."""
        key, status, certificate, now = (
            self._watch.key,
            self._watch.status,
            self._certificate.current,
            self._wall(),
        )
        return Health(
            device_id=self._link.device_id,
            at=now,
            started=self._started,
            hub_connected=self._hub.online and self._link.connected,
            hub_refuses=self._hub.refused,
            hub_dropped_us=self._hub.dropped_again_and_again,
            cpm_known=self._watch.known,
            cpm_judges=self._cpm.judges_releases,
            fingerprint=None if key is None else key.fingerprint,
            sequence=0 if status is None else status.sequence,
            errors=len(self._errors),
            certificate_not_after=None if certificate is None else certificate.not_after,
            certificate_matches=None
            if certificate is None or key is None
            else certificate.leaf_spki == key.spki and certificate.not_before <= now < certificate.not_after,
            clock_plausible=is_plausible(now),
            in_step=self._twin.reported is not None
            and not self._twin.desired_open
            and not self._report_patch(),
            counts={name: getattr(self._tally, name) for name in COUNTS},
            last_report=self._tally.last_report,
            last_release=self._tally.last_release,
            last_error=self._tally.last_error,
        )

    def _situation(self) -> Situation:
        if self._hub.online and not self._link.connected:
            self._leave_hub("connection lost")
        now = self._clock()
        return Situation(
            cpm_known=self._watch.known,
            cpm_due=now >= self._watch.due,
            connected=self._hub.online,
            hub_due=now >= self._hub.due,
            twin_fresh=self._twin.reported is not None,
            desired_open=self._twin.desired_open,
            report_open=bool(self._report_patch()),
            renewal_due=self._renewer.is_due(self._watch.key),
            poll_due=now >= self._poll_due,
        )

    # The hub

    def connect(self) -> None:
        """Connect to the hub."""
        if self._hub.connect():
            self._twin.doubt()

    def _leave_hub(self, reason: str) -> None:
        self._hub.leave(reason)
        self._twin.doubt()

    def read_twin(self) -> None:
        """Read the whole twin."""
        try:
            self._twin.take(self._link.get_twin())
            self._tally.twin_reads += 1
        except (TransportError, FormatError) as error:
            self._leave_hub(str(error))

    def report(self) -> None:
        """Send what the twin does not say yet."""
        patch = self._report_patch()
        try:
            self._link.patch_reported(patch)
        except TransportError as error:
            self._leave_hub(str(error))
        except FormatError as error:
            self._refused = patch  # not sent again as it is
            self._tally.failed(error.code, str(error))
            _log.error("report_refused", extra={"code": error.code, "reason": str(error)})
        else:
            self._refused = None
            self._twin.acknowledged(patch)
            self._tally.reports += 1
            self._tally.last_report = self._wall()
            self._tell_reported(patch)

    def _report_patch(self) -> Mapping[str, object]:
        key, status, reported = self._watch.key, self._watch.status, self._twin.reported
        if key is None or status is None or reported is None:
            return {}
        certificate = self._certificate.current
        wanted = wanted_report(key=key, certificate=certificate, status=status, errors=self._errors)
        patch = open_patch(reported, wanted)
        return {} if patch == self._refused else patch

    def _tell_reported(self, patch: Mapping[str, object]) -> None:
        key, status = self._watch.key, self._watch.status
        if key is None or status is None:
            return
        device_id, fingerprint = self._link.device_id, key.fingerprint
        if IDENTITY & patch.keys():
            _log.info("key_reported", extra={"device_id": device_id, "fingerprint": fingerprint.hex()})
        if STATUS in patch:
            _log.info("status_reported", extra={"device_id": device_id, "sequence": status.sequence})
        self._remember(replace(self._memory, fingerprint=fingerprint))

    # The CPM

    def identify(self) -> None:
        """Ask the CPM who it is; it is then given the desired keys anew, at little cost if it has them."""
        before = self._watch.key
        if not self._watch.identify():
            return
        if before != self._watch.key:
            self._errors = {}
        self._twin.desired_open = True
        self._look_for_faults()

    def poll(self) -> None:
        """Look at the certificate file and at what the CPM holds."""
        self._poll_due = self._clock() + POLL_SECONDS
        self._certificate.refresh()
        if self._watch.known:
            self._watch.refresh()
            if self._watch.known:
                self._look_for_faults()
        elif self._twin.desired_open and self._watch.seconds_gone >= CPM_MISSED_SECONDS:
            missed = TransportError("the cpm is away", code="cpm_unavailable")
            self._errors = failed_keys(self._desired_keys(), missed)

    def apply(self) -> None:
        """Hand the desired keys to the CPM."""
        desired = self._desired_keys()
        if self._is_for_another_key(desired):
            self._twin.desired_open = False  # the cloud answers the new key's report with another set
            return
        try:
            outcome = hand_over(self._cpm, desired)
        except TransportError as error:
            self._watch.missed(error)
            return
        self._errors = outcome.errors
        if outcome.again:
            self._watch.wait()
        else:
            self._watch.succeeded()
            self._twin.desired_open = False
        self._tell_outcome(outcome)
        self._watch.refresh()

    def renew(self) -> None:
        """Have the certificate renewed; the next report carries it."""
        if self._watch.key is not None:
            self._renewer.renew(self._watch.key)

    def _desired_keys(self) -> DesiredKeys:
        """Return the desired set; an empty one, and a log line, if it cannot be read."""
        try:
            return parse_desired(self._twin.desired)
        except FormatError as error:
            self._tell_once("desired_malformed", code=error.code, reason=str(error))
            return DesiredKeys(wrapped={}, release=None)

    def _is_for_another_key(self, desired: DesiredKeys) -> bool:
        """Say whether the cloud made a set before it could know the device key of now."""
        key, reported = self._watch.key, self._twin.reported
        if key is None:
            return False
        if reported is None:
            told = self._memory.fingerprint == key.fingerprint
        else:
            told = reported.get(PUBLIC_KEY) in (None, encode_base64(key.spki))
        return not told and not made_for(desired, key.fingerprint)

    def _tell_outcome(self, outcome: Outcome) -> None:
        device_id = self._link.device_id
        if outcome.refusal is not None:
            refusal = {"device_id": device_id, "code": outcome.refusal.code, "reason": str(outcome.refusal)}
            _log.warning("release_refused", extra=refusal)
            self._tally.releases_refused += 1
            self._tally.failed(outcome.refusal.code, str(outcome.refusal))
        if outcome.applied is not None:
            event = "release_applied" if outcome.applied.applied else "release_held"
            sequence, versions = outcome.applied.sequence, dict(outcome.applied.versions)
            _log.info(event, extra={"device_id": device_id, "sequence": sequence, "keys": versions})
            self._remember(replace(self._memory, sequence=sequence))
            if outcome.applied.applied:
                self._tally.releases_applied += 1
                self._tally.last_release = self._wall()

    def _look_for_faults(self) -> None:
        """Tell, once each, what somebody must look at: the agent goes on, the cloud or the CPM refuses."""
        key, status, certificate = self._watch.key, self._watch.status, self._certificate.current
        if key is None or status is None:
            return
        if status.device_id != self._link.device_id:
            self._tell_once(
                "device_id_mismatch", device_id=self._link.device_id, cpm_device_id=status.device_id[:257]
            )
        if certificate is not None and certificate.leaf_spki != key.spki:
            self._tell_once("certificate_mismatch", fingerprint=key.fingerprint.hex())
        if self._memory.fingerprint not in {None, key.fingerprint}:
            self._tell_once("device_key_changed", fingerprint=key.fingerprint.hex())
        elif status.sequence < self._memory.sequence:
            self._tell_once("cpm_state_lost", sequence=status.sequence, expected=self._memory.sequence)

    def _tell_once(self, event: str, **fields: object) -> None:
        told = f"{event} {fields}"
        if told not in self._told:
            if len(self._told) >= MAX_TOLD:
                self._told.clear()
            self._told.add(told)
            _log.warning(event, extra=fields)

    def _remember(self, memory: AgentState) -> None:
        if memory == self._memory:
            return
        self._memory = memory
        try:
            self._state.save(memory)
        except StorageError as error:
            _log.error("state_not_saved", extra={"reason": str(error)})


_ACTIONS: Final[Mapping[Action, Callable[[Agent], None]]] = {
    Action.IDENTIFY: Agent.identify,
    Action.CONNECT: Agent.connect,
    Action.READ_TWIN: Agent.read_twin,
    Action.APPLY: Agent.apply,
    Action.REPORT: Agent.report,
    Action.RENEW: Agent.renew,
    Action.POLL: Agent.poll,
}
