"""Shared access signatures: ``SharedAccessSignature sr=…&sig=…&se=…[&skn=…]``.

The signature is HMAC-SHA256 over the resource as it stands in the token, still percent-encoded, a line
feed and the expiry; the key is the base64-decoded shared access key. Verifying never says which part was
wrong.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

from shared.errors import FormatError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MAX_TOKEN = 4096
"""Characters of a token that are looked at."""

MIN_KEY, MAX_KEY = 16, 64
"""Bytes of a shared access key."""

_PREFIX = "SharedAccessSignature "
_EXPIRY = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedAccessSignature:
    """A token's parts; the resource and the expiry as they were signed."""

    signed_resource: str
    expires_at: int
    policy: str | None
    signature: str = field(repr=False)

    @property
    def resource(self) -> str:
        """What the token opens, decoded, its host name in lower case."""
        host, slash, path = unquote_plus(self.signed_resource).partition("/")
        return host.lower() + slash + path


def parse_sas(token: str) -> SharedAccessSignature:
    """Read a token.

    Raises:
        FormatError: It is no shared access signature; the message never repeats it.
    """
    if len(token) > MAX_TOKEN or not token.isascii() or not token.startswith(_PREFIX):
        raise FormatError("shared access signature: expected 'SharedAccessSignature sr=…&sig=…&se=…'")
    fields: dict[str, str] = {}
    for part in token.removeprefix(_PREFIX).split("&"):
        name, _, value = part.partition("=")
        if name in fields:
            raise FormatError(f"shared access signature: field {name[:16]!r} stands twice")
        fields[name] = value
    if not fields.keys() >= {"sr", "sig", "se"} or not _EXPIRY.fullmatch(fields["se"]):
        raise FormatError("shared access signature: expected the fields sr, sig and se")
    return SharedAccessSignature(
        signed_resource=fields["sr"],
        expires_at=int(fields["se"]),
        policy=unquote_plus(fields["skn"]) if "skn" in fields else None,
        signature=unquote(fields["sig"]),
    )


def verify_sas(
    token: SharedAccessSignature, *, keys: Iterable[str], resources: Collection[str], now: float
) -> None:
    """Check that a token is signed with one of ``keys``, opens one of ``resources`` and has not expired.

    Args:
        token: As parsed.
        keys: Shared access keys, base64.
        resources: What it may open, host names in lower case.
        now: Unix time.

    Raises:
        VerificationError: ``sas_rejected``.
    """
    expected = token.signature.encode()
    said = f"{token.signed_resource}\n{token.expires_at}".encode()
    signed = any(hmac.compare_digest(_sign(key, said), expected) for key in keys)
    if not signed or token.expires_at <= now or token.resource not in resources:
        raise VerificationError("shared access signature: rejected", code="sas_rejected")


def _sign(key: str, said: bytes) -> bytes:
    return base64.b64encode(hmac.digest(base64.b64decode(key), said, "sha256"))


def is_shared_access_key(value: str) -> bool:
    """Say whether ``value`` is base64 of 16 to 64 bytes, as IoT Hub takes keys."""
    try:
        return value.isascii() and MIN_KEY <= len(base64.b64decode(value, validate=True)) <= MAX_KEY
    except binascii.Error:
        return False
