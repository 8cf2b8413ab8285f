"""Access tokens of the local cloud: JWT (RFC 7519) signed with ES256, as a managed identity would get them.

The functions host mints them with its identity key; the twin hub and the key vault verify them with the
public half. A token names one audience, so that one for the vault opens nothing at the hub.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import jwt

from shared.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping

HUB_AUDIENCE = "https://iothubs.azure.net"
"""Audience of a token for the twin hub."""

VAULT_AUDIENCE = "https://vault.azure.net"
"""Audience of a token for the key vault."""

MAX_TOKEN = 8192
"""Characters of a token that are looked at; a longer one is refused unread."""

_ALGORITHM = "ES256"


def mint(key_pem: bytes, *, audience: str, subject: str, lifetime: int) -> str:
    """Return a signed token.

    Args:
        key_pem: EC P-256 private key, PEM.
        audience: Whom the token is for.
        subject: Who the bearer is.
        lifetime: Seconds from now until it expires.
    """
    now = int(time.time())
    claims = {"aud": audience, "sub": subject, "iat": now, "nbf": now, "exp": now + lifetime}
    return jwt.encode(claims, key_pem, algorithm=_ALGORITHM)


def verify(token: str, public_key_pem: bytes, *, audience: str) -> Mapping[str, object]:
    """Return the claims of a token that is signed, meant for ``audience`` and not expired.

    Raises:
        VerificationError: ``token_invalid``; the message never repeats the token.
    """
    if len(token) > MAX_TOKEN or not token.isascii():
        raise VerificationError(
            f"access token: expected at most {MAX_TOKEN} ASCII characters", code="token_invalid"
        )
    try:
        claims: dict[str, object] = jwt.decode(
            token,
            public_key_pem,
            algorithms=[_ALGORITHM],  # never the token's own choice
            audience=audience,
            options={"require": ["aud", "exp", "sub"]},
        )
    except jwt.InvalidTokenError as error:
        raise VerificationError(f"access token: {type(error).__name__}", code="token_invalid") from error
    return claims
