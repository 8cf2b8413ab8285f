"""Whether a back end may call the hub: a service policy's shared access signature, or an access token."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from local_cloud.tokens import HUB_AUDIENCE, verify
from local_cloud.twin_hub.faults import Fault, HubError
from local_cloud.twin_hub.sas import parse_sas, verify_sas
from shared.errors import FormatError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Collection

SERVICE_POLICY = "service"
"""``SharedAccessKeyName`` of the one policy there is."""

_BEARER = "Bearer "


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAuthorizer:
    """Knows what a back end must prove.

    Args:
        hosts: Names that a shared access signature may be made for, in lower case.
        service_key: The policy's shared access key, base64.
        identity_public_key: PEM of the key that access tokens are signed with; ``None`` takes no tokens.
    """

    hosts: Collection[str]
    service_key: str = field(repr=False)
    identity_public_key: bytes | None

    def check(self, authorization: str) -> None:
        """Accept the value of an ``Authorization`` header.

        Raises:
            HubError: ``IotHubUnauthorizedAccess``; the same whatever was wrong.
        """
        try:
            if authorization.startswith(_BEARER) and self.identity_public_key is not None:
                token = authorization.removeprefix(_BEARER)
                verify(token, self.identity_public_key, audience=HUB_AUDIENCE)
                return
            signature = parse_sas(authorization)
            if signature.policy == SERVICE_POLICY:
                verify_sas(signature, keys=[self.service_key], resources=self.hosts, now=time.time())
                return
        except (FormatError, VerificationError) as error:
            raise _unauthorized() from error
        raise _unauthorized()


def _unauthorized() -> HubError:
    return HubError(Fault.UNAUTHORIZED, "unauthorized")
