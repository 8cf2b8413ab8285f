"""What the CPM does for its clients: one method an operation, from typed arguments to a reply's fields.

The state is one immutable value under one lock. An operation reads it, works, takes the lock, checks again
what may have changed meanwhile, and replaces it; what takes long (reading a package, running a workload)
happens outside the lock.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cpm import keyring, packages, workload
from cpm.admission import DeviceKeyKind, Offer, admit
from cpm.files import leaves_old_file
from shared.cpk.opening import KeyReference, OpenedPackage, Requirements, inspect_package, open_package
from shared.errors import VerificationError
from shared.wire.cpm_contract import CONTRACT, CpmOperation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from typing import BinaryIO

    from cryptography.hazmat.primitives.asymmetric import ec

    from cpm.clock import ProvenClock
    from cpm.custody.port import Custody
    from cpm.sealed_store import SealedFile, SealedReader, SealedStore
    from cpm.state import HeldKey, InstalledPackage, State
    from cpm.state_file import StateFile
    from shared.certificate_paths import TrustStore
    from shared.types import KeyName, Secret
    from shared.wire.cpm_contract import Request

Reply = dict[str, object]
"""The fields of a good reply, without ``ok``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """What the CPM trusts and demands, fixed when it starts.

    Args:
        release_keys: P-256 keys that sign releases.
        trust: Roots whose certificates may sign packages.
        require_package_signature: Whether every package must be signed as a whole.
        workloads: What workloads may do.
    """

    release_keys: Sequence[ec.EllipticCurvePublicKey]
    trust: TrustStore
    require_package_signature: bool = False
    workloads: workload.Rules = field(default_factory=workload.Rules)


class Service:
    """The operations.

    Args:
        state_file: The state.
        store: The sealed payloads; what the state does not refer to is removed now.
        custody: The device key and the storage root.
        pins: What is trusted.
        clock: The time.
        program_version: Answered by ``ping``.

    Raises:
        StorageError: The disk refused.
    """

    def __init__(
        self,
        *,
        state_file: StateFile,
        store: SealedStore,
        custody: Custody,
        pins: Pins,
        clock: ProvenClock,
        program_version: str,
    ) -> None:
        self._state_file = state_file
        self._store = store
        self._custody = custody
        self._pins = pins
        self._clock = clock
        self._program_version = program_version
        self._lock = threading.Lock()
        self._handlers: Mapping[CpmOperation, Callable[[Request, _Passed], Reply]] = {
            CpmOperation.PING: self._ping,
            CpmOperation.IS_OPERATION_SUPPORTED: self._is_operation_supported,
            CpmOperation.GET_DEVICE_PUBLIC_KEY_DATA_SIZE: self._get_device_public_key_data_size,
            CpmOperation.EXPORT_DEVICE_PUBLIC_KEY: self._export_device_public_key,
            CpmOperation.INSTALL_APPLICATION_KEY: self._install_application_key,
            CpmOperation.DEVICE_PUBLIC_KEY: self._device_public_key,
            CpmOperation.APPLY_RELEASE: self._apply_release,
            CpmOperation.STATUS: self._status,
            CpmOperation.INSTALL: self._install,
            CpmOperation.LIST: self._list,
            CpmOperation.UNINSTALL: self._uninstall,
            CpmOperation.RUN: self._run,
            CpmOperation.STREAM: self._stream,
        }
        clock.now(state_file.state.low_water)  # from here on time passes
        store.remove_others({package.file for package in state_file.state.packages.values()})

    def handle(self, request: Request, *, fds: Sequence[int], client: int) -> Reply:
        """Do what a request asks for.

        Args:
            request: Checked against the contract's table.
            fds: The descriptors that came with it; the caller closes them.
            client: Descriptor of the client's socket, watched for its hanging up.

        Raises:
            EdbError: It is refused or cannot be done; nothing changed.
        """
        admit(request.operation, keyring.phase_of(self._state_file.state))
        return self._handlers[request.operation](request, _Passed(fds=fds, client=client))

    # ── the device and its key ────────────────────────────────────────────────────────────────────────────

    def _ping(self, _request: Request, _passed: _Passed) -> Reply:
        return {
            "contract": CONTRACT,
            "fingerprint": bytes(self._custody.public_key.fingerprint),
            "version": self._program_version,
        }

    def _is_operation_supported(self, request: Request, _passed: _Passed) -> Reply:
        name = request.arguments["operation"]
        return {"supported": any(operation.value == name for operation in CpmOperation)}

    def _get_device_public_key_data_size(self, _request: Request, _passed: _Passed) -> Reply:
        return {"size": len(self._pkcs1())}

    def _export_device_public_key(self, _request: Request, _passed: _Passed) -> Reply:
        return {"data": self._pkcs1()}

    def _pkcs1(self) -> bytes:
        key = self._custody.public_key.key
        kind = DeviceKeyKind.RSA if isinstance(key, rsa.RSAPublicKey) else DeviceKeyKind.OTHER
        admit(CpmOperation.EXPORT_DEVICE_PUBLIC_KEY, kind)
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)

    def _device_public_key(self, _request: Request, _passed: _Passed) -> Reply:
        public_key = self._custody.public_key
        return {
            "spki": public_key.spki,
            "fingerprint": bytes(public_key.fingerprint),
            "algorithms": [algorithm.value for algorithm in self._custody.algorithms],
        }

    # ── class keys ────────────────────────────────────────────────────────────────────────────────────────

    def _install_application_key(self, request: Request, _passed: _Passed) -> Reply:
        application_id = cast("str", request.arguments["application_id"])
        wrapped = cast("bytes", request.arguments["wrapped_key"])
        with self._lock:
            state = self._state_file.state
            self._state_file.save(
                keyring.install_v1_key(state, application_id, wrapped, custody=self._custody)
            )
        return {}

    def _apply_release(self, request: Request, _passed: _Passed) -> Reply:
        with self._lock:
            applied = keyring.apply_release(
                self._state_file.state,
                cast("bytes", request.arguments["release"]),
                cast("Mapping[str, bytes]", request.arguments["wrapped_keys"]),
                release_keys=self._pins.release_keys,
                custody=self._custody,
                clock=self._clock,
            )
            if applied.changed:
                self._state_file.save(applied.state)
                self._clock.now(applied.state.low_water)  # from here on time passes
        return {
            "sequence": applied.release.sequence,
            "applied": applied.changed,
            "keys": {
                name: {"version": held.version, "kcv": keyring.check_value(applied.state, name, held)}
                for name, told in applied.release.keys.items()
                for held in applied.state.keys.get(name, ())
                if held.version == told.version
            },
        }

    def _status(self, _request: Request, _passed: _Passed) -> Reply:
        state = keyring.drop_expired(self._state_file.state, at=self._now())
        return {
            "audience": state.audience,
            "device_id": state.device_id,
            "fingerprint": bytes(self._custody.public_key.fingerprint),
            "sequence": state.sequence,
            "latched_v2": state.latched_v2,
            "keys": {
                name: [
                    {"version": held.version, "kcv": keyring.check_value(state, name, held)}
                    for held in versions
                ]
                for name, versions in state.keys.items()
            },
            "floors": dict(state.floors),
            "packages": self._packages(state),
            "sandbox": self._pins.workloads.sandbox.choice.value,
            "storage": {"used": self._store.used, "quota": self._store.quota},
        }

    # ── packages ──────────────────────────────────────────────────────────────────────────────────────────

    def _install(self, _request: Request, passed: _Passed) -> Reply:
        file = packages.PassedFile(passed.fds[0])
        lookup = _KeyLookup(self)
        size = inspect_package(cast("BinaryIO", file), file.size).payload_size
        with self._store.create(size) as writer:
            opened = open_package(
                cast("BinaryIO", file),
                file.size,
                class_key=lookup.find,
                trust=self._pins.trust,
                at=self._now(),
                requirements=Requirements(package_signature=self._pins.require_package_signature),
                sink=writer.write,
            )
            sealed = writer.finish()
        package = self._commit_package(opened, sealed, lookup)
        return {
            "cp_id": opened.manifest.id,
            "name": package.name,
            "vendor": package.vendor,
            "version": packages.text_of(package.version),
            "size": package.size,
            "key_version": package.key_version,
            "package_signed": package.package_signed,
        }

    def _commit_package(
        self, opened: OpenedPackage, sealed: SealedFile, lookup: _KeyLookup
    ) -> InstalledPackage:
        """Make a verified package the installed one of its id: the state is what names its file."""
        cp_id = opened.manifest.id
        key_name, key = lookup.found
        package = packages.describe(opened, sealed, key_name=key_name, key=key)
        saving = False
        try:
            with self._lock:
                state = self._state_file.state
                # A release may have revoked the key while the package was read.
                keyring.select_key(state, key_name, key.version, at=self._now())
                packages.check_acceptable(state, cp_id, package)
                self._check_same_payload(state, cp_id, package)
                saving = True
                self._state_file.save(packages.with_package(state, cp_id, package))
        except BaseException as error:
            if not saving or leaves_old_file(error):
                self._store.remove(sealed.name)
            raise
        replaced = state.packages.get(cp_id)
        if replaced is not None:
            self._store.remove(replaced.file)
        return package

    def _check_same_payload(self, state: State, cp_id: str, package: InstalledPackage) -> None:
        """Refuse another payload under the version that is installed; one that is damaged may be replaced."""
        installed = packages.same_version_installed(state, cp_id, package)
        if installed is None or not self._store.is_intact(packages.sealed_file(installed)):
            return
        if not self._store.same_payload(packages.sealed_file(installed), packages.sealed_file(package)):
            version = packages.text_of(package.version)
            admit(CpmOperation.INSTALL, Offer.OTHER_PAYLOAD, cp_id=cp_id, version=version)

    def _list(self, _request: Request, _passed: _Passed) -> Reply:
        return {"packages": self._packages(self._state_file.state)}

    def _packages(self, state: State) -> Reply:
        return {
            cp_id: {
                "name": package.name,
                "version": packages.text_of(package.version),
                "state": "installed" if self._store.is_intact(packages.sealed_file(package)) else "damaged",
                "size": package.size,
            }
            for cp_id, package in state.packages.items()
        }

    def _uninstall(self, request: Request, _passed: _Passed) -> Reply:
        cp_id = cast("str", request.arguments["cp_id"])
        with self._lock:
            state = self._state_file.state
            self._state_file.save(packages.without_package(state, cp_id))
        self._store.remove(state.packages[cp_id].file)
        return {}

    def _run(self, request: Request, passed: _Passed) -> Reply:
        cp_id = cast("str", request.arguments["cp_id"])
        arguments = cast("list[str]", request.arguments["arguments"])
        stdin, stdout, stderr = passed.fds
        package, reader = self._open_payload(cp_id)
        with reader:
            payload = workload.load_payload(reader.segments())
        launch = workload.Launch(
            cp_id=cp_id,
            version=packages.text_of(package.version),
            arguments=arguments,
            stdio=(stdin, stdout, stderr),
            rules=self._pins.workloads,
        )
        return {"exit_status": workload.run(payload, launch, client=passed.client)}

    def _stream(self, request: Request, passed: _Passed) -> Reply:
        cp_id = cast("str", request.arguments["cp_id"])
        self._pins.workloads.check_stream(cp_id)
        _, reader = self._open_payload(cp_id)
        with reader:
            return {"bytes": workload.stream(reader.segments(), passed.fds[0], client=passed.client)}

    def _open_payload(self, cp_id: str) -> tuple[InstalledPackage, SealedReader]:
        with self._lock:  # so that the file is not removed between looking it up and opening it
            package = packages.find_package(self._state_file.state, cp_id)
            return package, self._store.open(packages.sealed_file(package))

    # ── shared by several ─────────────────────────────────────────────────────────────────────────────────

    def find_key(self, name: KeyName, version: int | None) -> HeldKey:
        """Return a key that may be used now.

        Raises:
            KeyUnavailable: As :func:`cpm.keyring.select_key` says.
        """
        return keyring.select_key(self._state_file.state, name, version, at=self._now())

    def _now(self) -> datetime:
        return self._clock.now(self._state_file.state.low_water)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passed:
    """What came beside a request: its descriptors, and the client's socket."""

    fds: Sequence[int]
    client: int


class _KeyLookup:
    """Finds a package's class key and remembers which version it was."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._found: tuple[KeyName, HeldKey] | None = None

    def find(self, reference: KeyReference) -> Secret:
        held = self._service.find_key(reference.name, reference.version)
        self._found = (reference.name, held)
        return held.key

    @property
    def found(self) -> tuple[KeyName, HeldKey]:
        if self._found is None:
            raise VerificationError("payload: it was opened without a class key", code="unencrypted")
        return self._found
