"""The error tree, branched by what the caller does next.

Every error carries a stable ``code`` for machines, a message for people (what failed, what was expected and
found, where) and sometimes a ``hint``: what to do about it. No message ever holds key material.
"""

from __future__ import annotations


class EdbError(Exception):
    """Anything that this project refuses or cannot do.

    Args:
        message: What failed, expected and found, where; lower case, no full stop.
        code: Stable machine-readable name; the class's own default if none is given.
        hint: What the reader may do about it.
    """

    default_code = "internal"

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code if code is not None else self.default_code
        self.hint = hint


class FormatError(EdbError):
    """The bytes or the document are not what their specification says; retrying cannot help."""

    default_code = "malformed"


class VerificationError(EdbError):
    """Well formed, but a signature, digest, tag, certificate, sequence or floor does not hold."""

    default_code = "verification_failed"


class PolicyDenied(EdbError):
    """The release policy does not allow it.

    Args:
        message: As for :class:`EdbError`.
        code: As for :class:`EdbError`.
        hint: As for :class:`EdbError`.
        reason: Stable code of what the policy missed, if it may be told.
    """

    default_code = "policy_denied"

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.reason = reason


class KeyUnavailable(EdbError):
    """A key that is needed is not held, is revoked, or may not be read."""

    default_code = "key_unavailable"


class Conflict(EdbError):
    """Somebody else changed or created it first; read again before trying again."""

    default_code = "conflict"


class NotFound(EdbError):
    """It does not exist."""

    default_code = "not_found"


class TransportError(EdbError):
    """A peer could not be reached or did not answer in time; trying again later may help.

    Args:
        message: As for :class:`EdbError`.
        code: As for :class:`EdbError`.
        hint: As for :class:`EdbError`.
        retry_after: Seconds that the peer asked to wait, if it did.
    """

    default_code = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.retry_after = retry_after


class StorageError(EdbError):
    """The local disk refused: full, read-only, or damaged."""

    default_code = "storage_full"


class SettingsError(EdbError):
    """The settings are wrong; all their problems are told together.

    Args:
        problems: One line for each problem, naming the setting.
    """

    default_code = "settings_invalid"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
