"""Who may do what: the vault's role assignments, by a token's subject.

The function app may use the two keys, and keep class keys as secrets, which it deletes and recovers. It can
create or delete no key. It can purge nothing either: in Azure its role would let it, and the vault's purge
protection does not. A subject that is not listed may do nothing.
"""

from __future__ import annotations

import enum

from local_cloud.key_vault.errors import forbidden


class Permission(enum.Enum):
    """One data action of the vault."""

    KEYS_CREATE = "keys/create"
    KEYS_GET = "keys/get"
    KEYS_LIST = "keys/list"
    KEYS_UPDATE = "keys/update"
    KEYS_ROTATE = "keys/rotate"
    KEYS_DELETE = "keys/delete"
    KEYS_RECOVER = "keys/recover"
    KEYS_PURGE = "keys/purge"
    KEYS_ENCRYPT = "keys/encrypt"
    KEYS_DECRYPT = "keys/decrypt"
    KEYS_WRAP = "keys/wrapKey"
    KEYS_UNWRAP = "keys/unwrapKey"
    KEYS_SIGN = "keys/sign"
    KEYS_VERIFY = "keys/verify"
    SECRETS_SET = "secrets/set"
    SECRETS_GET = "secrets/get"
    SECRETS_LIST = "secrets/list"
    SECRETS_UPDATE = "secrets/update"
    SECRETS_DELETE = "secrets/delete"
    SECRETS_RECOVER = "secrets/recover"
    SECRETS_PURGE = "secrets/purge"


_FUNCTION_APP = frozenset(
    {
        Permission.KEYS_GET,
        Permission.KEYS_LIST,
        Permission.KEYS_WRAP,
        Permission.KEYS_UNWRAP,
        Permission.KEYS_SIGN,
        Permission.KEYS_VERIFY,
        Permission.SECRETS_SET,
        Permission.SECRETS_GET,
        Permission.SECRETS_LIST,
        Permission.SECRETS_UPDATE,
        Permission.SECRETS_DELETE,
        Permission.SECRETS_RECOVER,
    }
)

ASSIGNMENTS: dict[str, frozenset[Permission]] = {
    "operator": frozenset(Permission),
    "function-app": _FUNCTION_APP,
}
"""Permissions of each subject."""


def require(subject: str, permission: Permission) -> None:
    """Let the subject pass or refuse it.

    Raises:
        VaultError: 403 ``ForbiddenByRbac``.
    """
    if permission not in ASSIGNMENTS.get(subject, frozenset()):
        raise forbidden(
            "Caller is not authorized to perform action on resource.\r\n"
            f"Caller: sub={subject[:64]!r}\r\nAction: 'Microsoft.KeyVault/vaults/{permission.value}'",
            "ForbiddenByRbac",
        )
