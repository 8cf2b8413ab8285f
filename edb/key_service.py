"""The contracts of the key service, one method each (key-sharing protocol, section 3)."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from edb.answers import Fields
from edb.https import Again, HttpsClient, idempotency_key
from edb.settings import connection_from
from shared.errors import FormatError, NotFound, TransportError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from shared.rollout import Rollout
    from shared.types import KeyName

PAGE_SIZE = 1000
"""Entries that are asked for at once, the most that the service gives."""

Document = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInForce:
    """The policy document as the service holds it, and what it says of it."""

    body: bytes
    etag: str
    serial: str
    sha256: str


@contextmanager
def key_service(options: argparse.Namespace) -> Iterator[KeyService]:
    """Connect to the key service that command line, environment and settings file come to.

    Raises:
        EdbError: As for :func:`edb.settings.connection_from` and :class:`edb.https.HttpsClient`.
    """
    with HttpsClient(connection_from(options, os.environ)) as client:
        yield KeyService(client)


class KeyService:
    """The key service.

    Every method raises what :meth:`edb.https.HttpsClient.call` raises.

    Args:
        client: How it is reached.
    """

    def __init__(self, client: HttpsClient) -> None:
        self._client = client

    # ── class keys ────────────────────────────────────────────────────────────────────────────────────────

    def keys(self, *, prefix: str | None = None) -> Iterator[Document]:
        """Return every class key whose name begins with ``prefix``, page by page."""
        return self._pages("/api/keys", "keys", {"prefix": prefix} if prefix else {})

    def key(self, name: KeyName) -> Document:
        """Return one class key."""
        return self._get(f"/api/keys/{name}")

    def provision(self, name: KeyName, *, strength: int) -> Document:
        """Make a new class key."""
        body = {"key_name": name, "algorithm": "aes-gcm", "strength": str(strength)}
        return self._once("/api/ProvisionKey", body)

    def import_public_key(self) -> Document:
        """Return the public half of the key encryption key, a JWK."""
        return self._get("/api/ImportKey")

    def import_key(self, name: KeyName, wrapped: str, *, kid: str) -> Document:
        """Bring a key, wrapped under the public half with this ``kid``, as a new class key."""
        body = {"key_name": name, "wrapped_key": wrapped, "algorithm": "RSA-OAEP-256", "kid": kid}
        return self._once("/api/ImportKey", body)

    def rotate(self, name: KeyName, rollout: Rollout | None = None) -> Document:
        """Make the next version of a class key, for all at once or on its way in stages."""
        if rollout is None:
            return self._once("/api/RotateKey", {"key_name": name})
        asked = {
            "stages": list(rollout.stages),
            "pause_on_errors": rollout.pause_on_errors,
            "acknowledged": rollout.acknowledged,
        }
        return self._once("/api/RotateKey", {"key_name": name, "rollout": asked})

    def change_rollout(self, name: KeyName, *, version: int, stage: int, action: str) -> Document:
        """Take a rollout further from where it was found, or end it; from elsewhere it does nothing."""
        body = {"key_name": name, "version": version, "stage": stage, "action": action}
        return self._post("/api/ChangeRollout", body, again=Again.ALWAYS)

    def holder_pages(
        self, name: KeyName, *, version: int | None = None, state: str | None = None
    ) -> Iterator[list[Document]]:
        """Return the devices that hold a class key or were given it, a list a page."""
        filters = {"version": version, "state": state}
        told = {key: str(value) for key, value in filters.items() if value is not None}
        return self._page_lists(f"/api/keys/{name}/holders", "holders", told)

    def revoke(self, name: KeyName, version: int) -> Document:
        """Revoke a version and all older ones; doing it twice is doing it once."""
        body = {"key_name": name, "version": version}
        return self._post("/api/RevokeKey", body, again=Again.ALWAYS)

    def delete(self, name: KeyName) -> Document:
        """Delete a class key, so that it can be recovered."""
        return self._post("/api/DeleteKey", {"key_name": name}, again=Again.UNSENT)

    def recover(self, name: KeyName) -> Document:
        """Recover a deleted class key."""
        return self._post("/api/RecoverKey", {"key_name": name}, again=Again.UNSENT)

    def rewrap(self, name: KeyName | None) -> Document:
        """Move some envelopes under the newest key encryption key; of one class key, or of all."""
        body: Document = {} if name is None else {"key_name": name}
        return self._post("/api/RewrapEnvelopes", body, again=Again.ALWAYS)

    # ── devices ───────────────────────────────────────────────────────────────────────────────────────────

    def devices(
        self, *, state: str | None = None, reason: str | None = None, key: str | None = None
    ) -> Iterator[Document]:
        """Return the devices that something was decided about, page by page."""
        filters = {"state": state, "reason": reason, "key": key}
        return self._pages(
            "/api/devices", "devices", {name: value for name, value in filters.items() if value}
        )

    def device(self, device_id: str) -> Document:
        """Return one device; ``device/module`` for a module."""
        return self._get(f"/api/devices/{quote(device_id, safe='/')}")

    def reconcile(self, device_ids: Sequence[str]) -> Document:
        """Have up to 100 devices reconciled at once."""
        return self._post("/api/ReconcileDevices", {"device_ids": list(device_ids)}, again=Again.ALWAYS)

    def rebind(self, device_id: str, fingerprint: str) -> Document:
        """Bind a device to the key that it reports now, of this fingerprint; said twice is said once."""
        body = {"device_id": device_id, "fingerprint": fingerprint}
        return self._post("/api/RebindDevice", body, again=Again.ALWAYS)

    # ── policy ────────────────────────────────────────────────────────────────────────────────────────────

    def policy(self) -> PolicyInForce:
        """Return the policy that is in force."""
        return self._policy(again=Again.ALWAYS)

    def _policy(self, *, again: Again) -> PolicyInForce:
        answer = self._client.call("GET", "/api/policy", again=again)
        told = {name: answer.headers.get(name) for name in ("etag", "x-policy-serial", "x-policy-sha256")}
        for name, value in told.items():
            if not value:
                raise FormatError(f"answer: policy: the header {name} is missing")
        etag, serial, sha256 = (value or "" for value in told.values())
        return PolicyInForce(body=answer.body, etag=etag, serial=serial, sha256=sha256)

    def policy_etag(self) -> str | None:
        """Return the ETag of the policy that is in force, or None if none is: then any may follow."""
        try:
            return self._policy(again=Again.NEVER).etag
        except NotFound:
            return None
        except TransportError as error:
            if error.code == "policy_unavailable":  # it ended, or was out of reach for too long
                return None
            raise

    def publish_policy(self, body: bytes, *, etag: str | None) -> Document:
        """Put a policy into force, in the place of the one with this ETag if one is given."""
        condition = {} if etag is None else {"If-Match": etag}
        answer = self._client.call("PUT", "/api/policy", again=Again.UNSENT, body=body, headers=condition)
        return answer.document("answer")

    # ── audit and health ──────────────────────────────────────────────────────────────────────────────────

    def audit(self, *, after: int, limit: int = PAGE_SIZE) -> Iterator[Document]:
        """Return the audit records behind a sequence number, as far as there are any now, page by page."""
        while True:
            params = {"after": str(after), "limit": str(limit)}
            fields = Fields(self._get("/api/audit", params), where="answer")
            records = _objects(fields, "records")
            yield from records
            following = fields.get("next", int)
            if following is None or not records:
                return
            if following <= after:
                raise FormatError(f"answer: next: expected a number above {after}, found {following}")
            after = following

    def health(self) -> Document:
        """Return what the service says of itself."""
        return self._get("/api/health")

    def readiness(self) -> Document:
        """Return whether what the service depends on answers."""
        return self._client.call("GET", "/api/health/ready", again=Again.NEVER).document("answer")

    def _get(self, path: str, params: Mapping[str, str] | None = None) -> Document:
        return self._client.call("GET", path, again=Again.ALWAYS, params=params).document("answer")

    def _post(
        self, path: str, body: Mapping[str, object], *, again: Again, headers: Mapping[str, str] | None = None
    ) -> Document:
        answer = self._client.call("POST", path, again=again, body=body, headers=headers)
        return answer.document("answer")

    def _once(self, path: str, body: Mapping[str, object]) -> Document:
        """Post what must be done once, however often it is sent."""
        return self._post(path, body, again=Again.ALWAYS, headers=idempotency_key())

    def _pages(self, path: str, member: str, filters: Mapping[str, str]) -> Iterator[Document]:
        for page in self._page_lists(path, member, filters):
            yield from page

    def _page_lists(self, path: str, member: str, filters: Mapping[str, str]) -> Iterator[list[Document]]:
        token: str | None = None
        while True:
            paging = {"page_size": str(PAGE_SIZE)} | ({} if token is None else {"token": token})
            fields = Fields(self._get(path, {**filters, **paging}), where="answer")
            yield _objects(fields, member)
            following = fields.get("next_token", str)
            if following is None:
                return
            if following == token:
                raise FormatError("answer: next_token: expected another one than the page's own")
            token = following


def _objects(fields: Fields, member: str) -> list[Document]:
    found = fields.need(member, list)
    if not all(isinstance(entry, dict) for entry in found):
        raise FormatError(f"answer: {member}: expected objects, found something else")
    return found
