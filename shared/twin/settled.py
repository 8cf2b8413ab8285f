"""Tell from one short row of a twin query that a device is settled: nothing about it can have changed.

A full pass over a fleet reads no twin of a device that is settled. When a device was last decided about, its
outcome tag was given a note of all that the decision hung on; a row is compared with that note:

=========== =====================================================================================
field       what it stands for
=========== =====================================================================================
``context`` the deployment, the hub's word on the device, and every class key that a rule may still
            allow it with what is known of it from the hub alone; of a class key that is rolled out in
            stages, the version that the device is given now
``seen``    what desired held, and what the device reported: its key, certificate, errors
``seq``     the highest of a release so far; a device that reports a higher one is ahead of it
``until``   when time alone may change the decision: a lease to renew, a certificate that ends
=========== =====================================================================================

The note saves work and grants nothing: whoever may write tags can make a pass overlook a device, as they can
by not passing on what is written; they cannot have anything released. A row that is not settled leads to the
whole decision over the whole twin.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.encoding import encode_cbor
from shared.policy.claims import hub_claims
from shared.policy.document import Operation, claims_of
from shared.policy.evaluate import rules_in_reach
from shared.rollout import bucket
from shared.twin.documents import CERTIFICATES, OUTCOME_TAG, PUBLIC_KEY, STATUS
from shared.twin.ports import TwinRow

if TYPE_CHECKING:
    from datetime import datetime

    from shared.keys.store import ClassKeyState
    from shared.twin.ports import Twin
    from shared.twin.reconcile import Deployment, Verdict
    from shared.types import KeyName

NOTE: Final = "settled"
"""Name of the note in the outcome tag."""

_NOT_OURS = (KeyError, TypeError, AttributeError, ValueError)
"""What comes of reading a report or a note that is none that this project's own programs write."""

_DIGEST_BYTES = 8
_DEVICE_ID_CLAIM = "hub.device_id"
_TAG_CLAIMS = "hub.tags."
_MOST_CONTEXTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a decision hung on; see the module."""

    context: str
    seen: str
    sequence: int
    until: int

    def tag(self) -> dict[str, object]:
        """Return the note as it stands in the outcome tag."""
        return {"context": self.context, "seen": self.seen, "seq": self.sequence, "until": self.until}


def read_note(tags: Mapping[str, object]) -> Note | None:
    """Return the note in the outcome tag, or None if there is none that we could have written."""
    tag = tags.get(OUTCOME_TAG)
    note = tag.get(NOTE) if isinstance(tag, Mapping) else None
    match note:
        case {"context": str(context), "seen": str(seen), "seq": int(sequence), "until": int(until)}:
            return Note(context=context, seen=seen, sequence=sequence, until=until)
    return None


def row_of(twin: Twin) -> TwinRow:
    """Return the row that a query would tell of a twin."""
    metadata, status = twin.reported.get("$metadata"), twin.reported.get(STATUS)
    if not isinstance(status, Mapping):
        status = {}

    def updated(name: str) -> object:
        entry = metadata.get(name) if isinstance(metadata, Mapping) else None
        return entry.get("$lastUpdated") if isinstance(entry, Mapping) else None

    return TwinRow(
        device_id=twin.device_id,
        status=twin.status,
        tags=twin.tags,
        desired_version=twin.desired.get("$version"),
        sequence=status.get("seq"),
        fingerprint=status.get("pkf"),
        algorithms=status.get("algs"),
        failed=status.get("failed"),
        key_updated=updated(PUBLIC_KEY),
        certificate_updated=updated(CERTIFICATES),
    )


class Settlement:
    """Compares rows with notes, and makes notes, for one pass.

    Args:
        deployment: What is the same for every device.
        class_keys: Every class key there is.
        at: When the pass begins, aware.
    """

    def __init__(
        self, deployment: Deployment, class_keys: Mapping[KeyName, ClassKeyState], *, at: datetime
    ) -> None:
        self._policy = deployment.policy
        self._class_keys = class_keys
        self._base = _digest_of(deployment, at)
        claims = claims_of(deployment.policy)
        self._names_devices = _DEVICE_ID_CLAIM in claims
        self._tags = sorted(
            {claim.split(".")[2] for claim in claims if claim.startswith(_TAG_CLAIMS)} - {OUTCOME_TAG}
        )
        self._shares = sorted(
            {
                state.staged.rollout.share
                for state in class_keys.values()
                if state.staged and state.staged.rollout
            }
        )
        self._contexts: dict[str, str] = {}

    def is_settled(self, row: TwinRow, *, now: int) -> bool:
        """Whether the decision about a device would be the one that was made.

        Args:
            row: From the query; hostile.
            now: Unix seconds.
        """
        tags, sequence = row.tags, cast("Any", row.sequence)
        if type(tags) is not dict:
            return False
        try:
            note: Mapping[str, Any] = tags[OUTCOME_TAG][NOTE]
            return bool(
                now < note["until"]
                and (sequence is None or sequence <= note["seq"])
                and note["context"] == self._context(row)
                and note["seen"] == _seen(row, row.desired_version)
            )
        except _NOT_OURS:
            return False

    def note(self, twin: Twin, verdict: Verdict, *, writes_desired: bool) -> Note | None:
        """Return the note for a decision; None if the twin does not tell what a note needs.

        Args:
            twin: That it was made about.
            verdict: The decision.
            writes_desired: Whether carrying it out changes desired, whose ``$version`` is one more then.
        """
        row = row_of(twin)
        version = row.desired_version
        if type(version) is not int:
            return None
        try:
            context, seen = self._context(row), _seen(row, version + writes_desired)
        except _NOT_OURS:
            return None
        return Note(context=context, seen=seen, sequence=verdict.sequence, until=verdict.until)

    def _context(self, row: TwinRow) -> str:
        """Return a digest of what is decided by; fleets have few different ones, so each is made once."""
        tags: Mapping[str, object] = row.tags  # type: ignore[assignment] # checked by the caller
        key = repr((row.status, row.device_id if self._names_devices else None, *map(tags.get, self._tags)))
        if self._shares:  # of those whom the same rollouts reach, too
            key += str(bisect_right(self._shares, bucket(str(row.device_id))))
        found = self._contexts.get(key)
        if found is None:
            if len(self._contexts) >= _MOST_CONTEXTS:
                self._contexts.clear()
            found = self._contexts[key] = self._make_context(row, tags)
        return found

    def _make_context(self, row: TwinRow, tags: Mapping[str, object]) -> str:
        claims = hub_claims(device_id=str(row.device_id), status=str(row.status), tags=tags)
        reach = {}
        for name, state in self._class_keys.items():
            rules = rules_in_reach(self._policy, operation=Operation.DISTRIBUTE, key_name=name, claims=claims)
            if rules:
                version = state.version_for(str(row.device_id))
                reach[name] = (rules, version, state.floor, state.key_bytes)
        return _digest(repr((self._base, row.status, sorted(reach.items()))).encode())


def _seen(row: TwinRow, desired_version: object) -> str:
    seen = (
        desired_version,
        row.key_updated,
        row.certificate_updated,
        row.fingerprint,
        row.algorithms,
        row.failed,
    )
    return _digest(repr(seen).encode("utf-8", "surrogatepass"))


def _digest_of(deployment: Deployment, at: datetime) -> bytes:
    return encode_cbor(
        [
            deployment.audience,
            deployment.policy.digest,
            deployment.release_key_id,
            sorted(
                key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
                for key in deployment.release_keys
            ),
            deployment.trust.digest(at=at),
            deployment.budget,
        ]
    )


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
