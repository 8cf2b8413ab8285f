"""Refusals in the shape that Azure Key Vault gives them.

Example::

    {"error": {"code": "Forbidden", "message": "…", "innererror": {"code": "ForbiddenByRbac"}}}
"""

from __future__ import annotations

from shared.errors import EdbError


class VaultError(EdbError):
    """A request that the vault refuses.

    Args:
        status: HTTP status.
        code: Azure's error code.
        message: What was refused and why, in Azure's manner; a caller sees it.
        inner: Azure's inner code, if it has one.
    """

    def __init__(self, status: int, code: str, message: str, *, inner: str | None = None) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.inner = inner

    def document(self) -> dict[str, object]:
        """Return the JSON body of the answer."""
        error: dict[str, object] = {"code": self.code, "message": str(self)}
        if self.inner is not None:
            error["innererror"] = {"code": self.inner}
        return {"error": error}


def bad_parameter(message: str) -> VaultError:
    """Return the refusal of a malformed request: 400 ``BadParameter``."""
    return VaultError(400, "BadParameter", message)


def forbidden(message: str, inner: str) -> VaultError:
    """Return a 403 with its inner code."""
    return VaultError(403, "Forbidden", message, inner=inner)
