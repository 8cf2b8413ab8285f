"""Having the device certificate renewed by a command, in good time and whenever the device key changes.

The command gets the device's public key as PEM on standard input, and ``CPK_DEVICE_ID``,
``CPK_FINGERPRINT`` and ``CPK_REASON`` (``missing``, ``key_changed``, ``expiring``) in its environment. It
prints the new chain, PEM or DER, leaf first. How it convinces the authority is its own affair: the device key
cannot sign.

What it prints is used only if it is for this key and this device, valid now, and ends later than the one
before; and it is stored atomically. Anything else leaves the old certificate where it is, and is tried again
after minutes.
"""

from __future__ import annotations

import base64
import logging
import random
import textwrap
from typing import TYPE_CHECKING

from device_agent.backoff import Backoff
from device_agent.certificate import MAX_FILE_BYTES, DeviceCertificate
from device_agent.device_clock import is_plausible, utc_text
from device_agent.files import PUBLIC, replace_file
from shared.errors import EdbError, FormatError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from device_agent.certificate import CertificateFile
    from device_agent.cpm_client import DeviceKey
    from device_agent.device_clock import Clock
    from device_agent.health import Tally
    from device_agent.settings import Renewal
    from shared.types import DeviceId

COMMAND_SECONDS = 60.0
"""Longest that the command may take; the agent does nothing else meanwhile."""

FIRST_WAIT_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 3600.0

SPREAD = 0.1
"""How much earlier, as a part of the fraction, a device may be: a fleet made in one day renews over days."""

_random = random.SystemRandom()
_log = logging.getLogger("device_agent")


class Renewer:
    """Renews one device's certificate.

    Args:
        how: None never renews.
        certificate: The file that it is kept in.
        device_id: Whom it must name.
        roots: PEM of what its path must end in; None leaves that to the cloud.
        tally: What happens is counted there.
        clock: Monotonic seconds.
        wall: Unix seconds.
        draw: A number from 0 to 1, once: where in the spread this device is.
    """

    def __init__(
        self,
        how: Renewal | None,
        *,
        certificate: CertificateFile,
        device_id: DeviceId,
        roots: str | None,
        tally: Tally,
        clock: Clock,
        wall: Clock,
        draw: Callable[[], float] = _random.random,
    ) -> None:
        self._how, self._certificate, self._device_id, self._roots = how, certificate, device_id, roots
        self._tally, self._clock, self._wall = tally, clock, wall
        self._fraction = 0.0 if how is None else how.fraction * (1 - SPREAD * draw())
        self._backoff = Backoff(first=FIRST_WAIT_SECONDS, longest=LONGEST_WAIT_SECONDS)
        self._due = clock()

    def is_due(self, key: DeviceKey | None) -> bool:
        """Say whether the command is to run now."""
        return self._reason(key) is not None and self._clock() >= self._due

    def _reason(self, key: DeviceKey | None) -> str | None:
        if self._how is None or key is None or not is_plausible(self._wall()):
            return None
        current = self._certificate.current
        if current is None:
            return "missing"
        if current.leaf_spki != key.spki:
            return "key_changed"
        return "expiring" if self._wall() >= self._renew_at(current) else None

    def _renew_at(self, certificate: DeviceCertificate) -> float:
        lifetime = certificate.not_after - certificate.not_before
        return certificate.not_before + lifetime * self._fraction

    def renew(self, key: DeviceKey) -> None:
        """Run the command and take over what it prints, if that holds."""
        reason = self._reason(key)
        if self._how is None or reason is None:
            return
        try:
            renewed = self._checked(self._run(self._how.command, key, reason), key)
            self._store(renewed)
        except EdbError as error:
            wait = self._backoff.after_failure()
            self._due = self._clock() + wait
            self._tally.renewal_failures += 1
            self._tally.failed(error.code, str(error))
            told = {"code": error.code, "reason": str(error), "retry_in_seconds": round(wait, 1)}
            _log.error("renewal_failed", extra=told)
            return
        self._backoff.reset()
        self._due = self._clock() + FIRST_WAIT_SECONDS  # however short-lived the new one is
        self._tally.renewals += 1
        _log.info("certificate_renewed", extra={"why": reason, "not_after": utc_text(renewed.not_after)})

    def _run(self, command: tuple[str, ...], key: DeviceKey, reason: str) -> bytes:
        from device_agent.bounded_command import run_command  # noqa: PLC0415 - few agents run commands

        done = run_command(
            command,
            stdin=_public_key_pem(key.spki),
            seconds=COMMAND_SECONDS,
            limit=MAX_FILE_BYTES,
            environment={
                "CPK_DEVICE_ID": self._device_id,
                "CPK_FINGERPRINT": key.fingerprint.hex(),
                "CPK_REASON": reason,
            },
        )
        if done.status != 0:
            raise FormatError(f"{command[0]}: ended with status {done.status}", code="renewal_failed")
        return done.stdout

    def _checked(self, printed: bytes, key: DeviceKey) -> DeviceCertificate:
        """Return the certificate that was printed.

        Raises:
            FormatError: It is none.
            VerificationError: It is not the one that was wanted.
            TransportError: It could not be read now.
        """
        from device_agent.certificate_reader import read_certificate  # noqa: PLC0415 - as above

        where, now = "renewal command", self._wall()
        renewed, current = read_certificate(printed, where=where), self._certificate.current
        # 1. The key is the device's.
        if renewed.leaf_spki != key.spki:
            raise _refused("the certificate is for another key than the device's")
        # 2. So is the name.
        if renewed.device_id != self._device_id:
            raise _refused(f"the certificate does not name {self._device_id}")
        # 3. It is valid, and a gain.
        if not renewed.not_before <= now < renewed.not_after:
            raise _refused("the certificate is not valid now")
        if current is not None and current.leaf_spki == key.spki and renewed.not_after <= current.not_after:
            raise _refused("the certificate ends no later than the one before")
        # 4. Its path ends in a root, where roots are known.
        if self._roots is not None:
            read_certificate(printed, where=where, roots=self._roots, at=now)
        return renewed

    def _store(self, renewed: DeviceCertificate) -> None:
        path = self._certificate.path
        if path is None:
            raise FormatError("certificate_file: none is set")
        replace_file(path, renewed.pem, mode=PUBLIC)
        self._certificate.refresh()


def _public_key_pem(spki: bytes) -> bytes:
    """Return a key in the textual encoding of RFC 7468."""
    lines = textwrap.wrap(base64.b64encode(spki).decode(), 64)
    return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""]).encode()


def _refused(what: str) -> VerificationError:
    return VerificationError(f"renewal command: {what}", code="renewal_refused")
