"""TPM custody: a device key that never leaves its TPM, and a storage root that opens on an approved platform.

Device key: RSA, made in the TPM, bound to it (``fixedTPM``, ``fixedParent``), for RSA-OAEP with SHA-256 and
nothing else. Its use takes an authorization value that is derived from the storage root, so that whoever
starts other software cannot use it: there the storage root stays shut.

Storage root: 32 random bytes, sealed together with the number of the counter's index under a policy over PCRs
(:mod:`cpm.custody.tpm_pcrs`). It is opened once, when the CPM starts. An update that changes what those PCRs
hold is announced before (:mod:`cpm.reseal`): the root is then sealed for what they will hold, too.

Counter: :mod:`cpm.custody.tpm_counter`, by which an old copy of the state folder is found out.

First start, in this order: the root is sealed and written, the device key made, the counter defined; the
state is written, and then the device key (``Custody.commit``). After a crash in between the next start goes
on from what there is. See ADR 0012.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import TPM2_ALG, TPM2_RC, TPMA_OBJECT
from tpm2_pytss.types import (
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMS_SENSITIVE_CREATE,
    TPMT_RSA_DECRYPT,
)

from cpm.custody.port import DeviceKeyType
from cpm.custody.storage_root import damaged
from cpm.custody.tpm_counter import TpmCounter
from cpm.custody.tpm_device import TpmDevice, TpmObject
from cpm.custody.tpm_files import KEY_FILE, ROOT_FILE, KeyFile, RootFile
from cpm.custody.tpm_root import SealedRoot
from shared.errors import FormatError, VerificationError
from shared.keys.wrapping import KEY_LENGTHS, WrapContext, wrapped_size
from shared.public_keys import PublicKey, load_public_key
from shared.types import Secret, WrapAlgorithm

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# No lockout counts failures: the values that authorize are 256 bits, nobody guesses them.
_KEY_ATTRIBUTES = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.DECRYPT
)
_ALGORITHMS = {DeviceKeyType.RSA2048: "rsa2048", DeviceKeyType.RSA3072: "rsa3072"}
# What TPM2_RSA_Decrypt answers to bytes that do not open; libtpms says FAILURE where the padding is wrong.
_DOES_NOT_OPEN = frozenset(
    map(int, (TPM2_RC.VALUE, TPM2_RC.SIZE, TPM2_RC.SCHEME, TPM2_RC.FAILURE, TPM2_RC.NO_RESULT))
)
_KEY_AUTH, _COUNTER_AUTH = "device-key", "counter"


class TpmCustody:
    """A :class:`cpm.custody.port.Custody` in a TPM 2.0; see the module. Make one with :meth:`open`."""

    def __init__(
        self, *, folder: Path, device: TpmDevice, root: SealedRoot, key: TpmObject, fresh: bool
    ) -> None:
        self._folder = folder
        self._device = device
        self._storage = root.storage
        self._key_auth = root.storage.authorization(_KEY_AUTH)
        self._counter = TpmCounter(device, index=root.index, auth=root.storage.authorization(_COUNTER_AUTH))
        self._key = key
        self._fresh = fresh
        self._public_key = _public_key(key, where=str(folder / KEY_FILE))

    @classmethod
    def open(cls, folder: Path, *, tcti: str, pcrs: Sequence[int], key_type: DeviceKeyType) -> TpmCustody:
        """Load what ``folder`` holds; at the first start, make a storage root, a counter and a device key.

        Args:
            folder: The state folder; it exists, and the caller holds its lock.
            tcti: How the TPM is reached.
            pcrs: For a new storage root.
            key_type: For a new device key: RSA of 2048 or 3072 bits.

        Raises:
            StorageError: ``state_damaged``, ``state_exposed``, ``platform_changed``; or the TPM is full.
            Conflict: ``state_of_another``; the folder belongs to another TPM.
            VerificationError: ``rollback``; the counter is gone.
            TransportError: ``custody_unavailable``.
        """
        root_file, key_file = RootFile.read(folder), KeyFile.read(folder)
        if root_file is None and key_file is not None:
            raise damaged(f"{folder / ROOT_FILE} is missing beside {KEY_FILE}")
        device = TpmDevice(tcti)
        try:
            if root_file is None:
                root = SealedRoot.make(device, pcrs)
                root.write(folder, device)
            else:
                root = SealedRoot.open(device, root_file, where=str(folder / ROOT_FILE))
            key = _make_key(device, root, key_type) if key_file is None else key_file.key
            custody = cls(folder=folder, device=device, root=root, key=key, fresh=key_file is None)
            if custody.fresh:
                custody.counter.define()
        except BaseException:
            device.close()
            raise
        return custody

    @property
    def public_key(self) -> PublicKey:
        """The device key's public half."""
        return self._public_key

    @property
    def algorithms(self) -> tuple[WrapAlgorithm, ...]:
        """RSA-OAEP-256 alone: the TPM refuses the key for anything else."""
        return (WrapAlgorithm.RSA_OAEP_256,)

    @property
    def fresh(self) -> bool:
        """Whether the device key was made at this start and is not yet on disk."""
        return self._fresh

    @property
    def counter(self) -> TpmCounter:
        """The counter in the TPM's NV memory."""
        return self._counter

    def commit(self) -> None:
        """Write a fresh device key; see the port."""
        if self._fresh:
            KeyFile(parent=self._device.parent_name, key=self._key).write(self._folder)
            self._fresh = False

    def unwrap(self, wrapped: bytes, algorithm: WrapAlgorithm, *, context: WrapContext) -> Secret:  # noqa: ARG002 - RSA binds no context
        """Open a class key inside the TPM; see the port."""
        opened = b""
        if algorithm is WrapAlgorithm.RSA_OAEP_256 and len(wrapped) == wrapped_size(
            self._public_key, algorithm, 32
        ):
            opened = self._decrypt(wrapped)
        if len(opened) not in KEY_LENGTHS:
            raise VerificationError("the wrapped key does not open for this key", code="unwrap_failed")
        return Secret(opened)

    def seal(self, content: bytes, *, purpose: str) -> bytes:
        """Seal ``content`` under the storage root; see the port."""
        return self._storage.seal(content, purpose=purpose)

    def unseal(self, sealed: bytes, *, purpose: str) -> bytes:
        """Return what :meth:`seal` was given; see the port."""
        return self._storage.unseal(sealed, purpose=purpose)

    def close(self) -> None:
        """Disconnect from the TPM, which keeps nothing loaded."""
        self._device.close()

    def _decrypt(self, wrapped: bytes) -> bytes:
        with self._device.use("unwrapping a key") as use:
            session = use.session()
            where = str(self._folder / KEY_FILE)
            key = use.load(self._key, session=session, auth=self._key_auth, where=where)
            try:
                # The key's own scheme counts: OAEP with SHA-256, no label.
                scheme = TPMT_RSA_DECRYPT(scheme=TPM2_ALG.NULL)
                return bytes(use.esapi.rsa_decrypt(key, wrapped, scheme, session1=session))
            except TSS2_Exception as error:
                if error.error not in _DOES_NOT_OPEN:
                    raise
                return b""


def _template(key_type: DeviceKeyType) -> TPM2B_PUBLIC:
    return TPM2B_PUBLIC.parse(f"{_ALGORITHMS[key_type]}:oaep-sha256:null", objectAttributes=_KEY_ATTRIBUTES)


def _make_key(device: TpmDevice, root: SealedRoot, key_type: DeviceKeyType) -> TpmObject:
    auth = root.storage.authorization(_KEY_AUTH)
    with device.use(f"making a device key, {key_type.value}") as use:
        sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=auth.reveal()))
        return use.create(sensitive, _template(key_type), session=use.session())


def _public_key(key: TpmObject, *, where: str) -> PublicKey:
    """Return the public half of a key that a TPM made, and that can do nothing but what it is for."""
    try:
        public, size = TPM2B_PUBLIC.unmarshal(key.public)
        if size != len(key.public) or _traits(public) not in [
            _traits(_template(key_type)) for key_type in _ALGORITHMS
        ]:
            raise damaged(f"{where}: expected an RSA key for OAEP with SHA-256 that a TPM made")
        return load_public_key(public.to_der(), where=where)
    except (TSS2_Exception, FormatError) as error:
        raise damaged(f"{where}: expected an RSA key that a TPM made") from error


def _traits(public: TPM2B_PUBLIC) -> tuple[int, int, bytes]:
    """Return what kind of key it is, what it may be used for, and its size and scheme."""
    area = public.publicArea
    parameters = area.parameters.marshal(TPM2_ALG.RSA) if area.type == TPM2_ALG.RSA else b""
    return int(area.type), int(area.objectAttributes), parameters
