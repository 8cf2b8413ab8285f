"""A transport below the unmodified SDK that kills its process's work at one numbered call to the vault."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from azure.core.pipeline.transport import RequestsTransport

if TYPE_CHECKING:
    import requests


class Killed(BaseException):
    """The process is gone: no handler of ours or of the SDK's may tidy up after this."""


@dataclass(slots=True, kw_only=True)
class Fate:
    """When to die; shared by all transports of one process.

    Args:
        at: Which call, from 1; 0 for never.
        answered: Whether the vault still gets the call, and only its answer is lost.
        log: The calls so far, ``METHOD path``.
    """

    at: int = 0
    answered: bool = False
    log: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, call: str) -> int:
        with self.lock:
            self.log.append(call)
            return len(self.log)


class KillingTransport(RequestsTransport):
    """Sends what the SDK gives it, until its time has come.

    Args:
        fate: When that is.
        ca_file: What the vault's TLS certificate is trusted by.
        session: Connections to use; they outlive the process, or each one would cost a handshake.
    """

    def __init__(self, fate: Fate, ca_file: str, session: requests.Session) -> None:
        super().__init__(session=session, session_owner=False, connection_verify=ca_file)
        self._fate = fate

    def send(self, request: Any, **options: Any) -> Any:
        number = self._fate.note(f"{request.method} {request.url.partition('?')[0]}")
        dies = number == self._fate.at
        if dies and not self._fate.answered:
            raise Killed
        answer = super().send(request, **options)
        if dies:
            raise Killed
        return answer
