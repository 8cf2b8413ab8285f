"""Devices that do what an agent and a CPM do: the CPM's own rules over a state in memory, and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding
from simulators.fleet import spki_of

from cpm.clock import ProvenClock
from cpm.keyring import apply_release, check_value
from cpm.state import State
from device_agent.handover import failed_keys, made_for
from shared.errors import EdbError, FormatError
from shared.keys.unwrapping import unwrap_key
from shared.keys.wrapping import algorithms_for
from shared.public_keys import PublicKey, load_public_key
from shared.twin.documents import KeyReport, parse_desired, reported_identity, reported_status
from shared.twin.sections import patch_between

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Mapping, Sequence

    from simulators.fleet import Authority

    from cpm.keyring import Applied
    from shared.keys.wrapping import WrapContext
    from shared.types import Audience, DeviceId, Secret, WrapAlgorithm

_MAKERS = {
    "x25519": x25519.X25519PrivateKey.generate,
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
}


class MemoryCustody:
    """What of a :class:`cpm.custody.port.Custody` a keyring needs: a device key in memory."""

    def __init__(self, kind: str) -> None:
        self._private_key = _MAKERS[kind]()
        self.public_key: PublicKey = load_public_key(spki_of(self._private_key), where="campaign")

    @property
    def algorithms(self) -> tuple[WrapAlgorithm, ...]:
        return algorithms_for(self.public_key.kind)

    def unwrap(self, wrapped: bytes, algorithm: WrapAlgorithm, *, context: WrapContext) -> Secret:
        return unwrap_key(wrapped, self._private_key, algorithm, context=context)


class CampaignDevice:
    """One device.

    Attributes:
        state: What its CPM remembers.
        certified: Whether it has a certificate of the fleet's authority for the key that it has.
        valid: From when to when; None for years.
    """

    def __init__(
        self,
        device_id: DeviceId,
        *,
        audience: Audience,
        authority: Authority,
        release_keys: Callable[[], Sequence[ec.EllipticCurvePublicKey]],
        clock: Callable[[], dt.datetime],
        elapsed: Callable[[], dt.datetime],
        has_certificate: bool,
    ) -> None:
        self.device_id = device_id
        self._audience, self._authority, self._release_keys = audience, authority, release_keys
        self._clock = ProvenClock(
            lambda: int(clock().timestamp()), elapsed=lambda: int(elapsed().timestamp())
        )
        self.renew(kind="x25519", has_certificate=has_certificate)

    def renew(
        self, *, kind: str, has_certificate: bool, valid: Mapping[str, dt.datetime] | None = None
    ) -> None:
        """Begin with an empty CPM and a new device key, as after a new disk."""
        self.custody = MemoryCustody(kind)
        self.state = State(audience=self._audience, device_id=self.device_id)
        self._errors: Mapping = {}
        self.certify(has_certificate=has_certificate, valid=valid)

    def certify(self, *, has_certificate: bool, valid: Mapping[str, dt.datetime] | None = None) -> None:
        """Be given a certificate for the key that it has, or lose the one that it had."""
        self.certified = has_certificate
        self.valid = (valid["not_before"], valid["not_after"]) if has_certificate and valid else None
        self._certificate = None
        if has_certificate:
            key, uri = self.custody.public_key.key, f"urn:cpk:device:{self.device_id}"
            certificate = self._authority.certify(key, uri=uri, **(valid or {}))
            self._certificate = certificate.public_bytes(Encoding.DER)

    @property
    def fingerprint(self) -> bytes:
        return self.custody.public_key.fingerprint

    def take(self, desired: Mapping[str, object], told_spki: object) -> Applied | None:
        """Hand what desired holds to the CPM, as the agent does; return what was applied.

        Args:
            desired: Now, or some time ago: a push that came late.
            told_spki: What the hub says that this device's key is.
        """
        try:
            held = parse_desired(desired)
        except FormatError:
            return None
        if held.release is None:
            return None
        own = reported_identity(spki=self.custody.public_key.spki, certificates_der=None)
        if told_spki not in (None, *own.values()) and not made_for(held, self.fingerprint):
            return None
        try:
            applied = apply_release(
                self.state,
                held.release,
                held.wrapped,
                release_keys=self._release_keys(),
                custody=self.custody,
                clock=self._clock,
            )
        except EdbError as error:
            self._errors = failed_keys(held, error)
            return None
        self._errors = {}
        self.state = applied.state
        return applied

    def report(self, reported: Mapping[str, object]) -> dict[str, object]:
        """Return the patch that makes reported say what is true now."""
        state = self.state
        keys = {
            name: KeyReport(
                version=versions[-1].version, state="installed", kcv=check_value(state, name, versions[-1])
            )
            for name, versions in state.keys.items()
        }
        identity = reported_identity(spki=self.custody.public_key.spki, certificates_der=self._certificate)
        status = reported_status(
            algorithms=self.custody.algorithms,
            fingerprint=self.fingerprint,
            sequence=state.sequence,
            keys={**keys, **self._errors},
            packages={},
        )
        wanted = {name: value for name, value in {**identity, **status}.items() if value is not None}
        ours = {name: value for name, value in reported.items() if name in {*identity, *status}}
        return patch_between(ours, wanted)
