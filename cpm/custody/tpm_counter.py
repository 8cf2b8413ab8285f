"""A monotonic counter in a TPM's NV memory.

The TPM itself forbids to lower it: an index of type counter only increments, and one that is removed and
defined again begins above the highest value that any counter of that TPM ever had (TPM 2.0 Part 1, on NV
counters). To read or raise it takes an authorization value that only the storage root gives, and the answer
carries a MAC under that value: no other user of the TPM raises it, and nobody on the bus answers for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import TPM2_ALG, TPM2_CAP, TPM2_NT, TPM2_RC, TPMA_NV
from tpm2_pytss.types import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC

from shared.errors import EdbError, StorageError, VerificationError

if TYPE_CHECKING:
    from typing import Any

    from cpm.custody.tpm_device import TpmDevice, TpmUse
    from shared.types import Secret

FIRST_INDEX: Final = 0x01834350
"""Counters of CPMs begin here, in the range that the TCG leaves to a TPM's owner."""

INDEX_COUNT: Final = 64

_VALUE_BYTES = 8
_ATTRIBUTES = (
    TPMA_NV.AUTHREAD | TPMA_NV.AUTHWRITE | TPMA_NV.NO_DA | TPMA_NV(TPM2_NT.COUNTER << TPMA_NV.TPM2_NT_SHIFT)
)
_REFUSED = frozenset({int(TPM2_RC.AUTH_FAIL), int(TPM2_RC.BAD_AUTH)})


class TpmCounter:
    """A :class:`cpm.custody.port.MonotonicCounter`.

    Args:
        device: The TPM.
        index: Its handle.
        auth: Authorizes its use.
    """

    def __init__(self, device: TpmDevice, *, index: int, auth: Secret) -> None:
        self._device = device
        self._index = index
        self._auth = auth

    def define(self) -> None:
        """Make the counter, if it is not there, and give it its first value.

        Raises:
            VerificationError: ``rollback``; another counter is at this index.
            StorageError: The TPM has no room.
            TransportError: ``custody_unavailable``.
        """
        with self._device.use("defining the counter") as use:
            if not _is_defined(use, self._index):
                self._define(use)
            handle = self._handle(use)
            if not _attributes(use, handle) & int(TPMA_NV.WRITTEN):
                use.esapi.nv_increment(handle, session1=use.session())

    def read(self) -> int:
        """Return the number; see the port."""
        with self._device.use("reading the counter") as use:
            handle = self._handle(use)
            try:
                value = use.esapi.nv_read(handle, _VALUE_BYTES, session1=use.session())
            except TSS2_Exception as error:
                raise self._explained(error) from error
            return int.from_bytes(bytes(value), "big")

    def increment(self) -> None:
        """Add one; see the port."""
        with self._device.use("raising the counter") as use:
            handle = self._handle(use)
            try:
                use.esapi.nv_increment(handle, session1=use.session())
            except TSS2_Exception as error:
                raise self._explained(error) from error

    def _define(self, use: TpmUse) -> None:
        public = TPMS_NV_PUBLIC(
            nvIndex=self._index, nameAlg=TPM2_ALG.SHA256, attributes=_ATTRIBUTES, dataSize=_VALUE_BYTES
        )
        try:
            use.esapi.nv_define_space(
                self._auth.reveal(), TPM2B_NV_PUBLIC(nvPublic=public), session1=use.session()
            )
        except TSS2_Exception as error:
            if error.error == TPM2_RC.NV_SPACE:
                raise StorageError("tpm: no room for a counter in its NV memory") from error
            raise

    def _handle(self, use: TpmUse) -> Any:  # noqa: ANN401 - the binding has no types
        """Return the counter, ready to be used, after a look at what it is: only that type cannot go back."""
        if not _is_defined(use, self._index):
            raise self._gone("it is missing")
        handle = use.esapi.tr_from_tpmpublic(self._index)
        if _attributes(use, handle) & ~int(TPMA_NV.WRITTEN) != int(_ATTRIBUTES):
            raise self._gone("something else is in its place")
        use.esapi.tr_set_auth(handle, self._auth.reveal())
        return handle

    def _explained(self, error: TSS2_Exception) -> EdbError | TSS2_Exception:
        if error.error in _REFUSED or error.error == TPM2_RC.NV_UNINITIALIZED:
            return self._gone("another one is in its place")
        return error

    def _gone(self, why: str) -> VerificationError:
        return VerificationError(
            f"tpm: the counter {self._index:#010x} that tells old states from the newest: {why}",
            code="rollback",
            hint="start with an empty state folder and enrol the device again",
        )


def free_index(device: TpmDevice) -> int:
    """Return the first free index of those for CPMs.

    Raises:
        StorageError: None is free.
        TransportError: ``custody_unavailable``.
    """
    with device.use("looking for a free counter") as use:
        for index in range(FIRST_INDEX, FIRST_INDEX + INDEX_COUNT):
            if not _is_defined(use, index):
                return index
    raise StorageError(f"tpm: all {INDEX_COUNT} indices from {FIRST_INDEX:#010x} on are in use")


def _is_defined(use: TpmUse, index: int) -> bool:
    _, found = use.esapi.get_capability(TPM2_CAP.HANDLES, index, 1)
    return index in [int(handle) for handle in found.data.handles]


def _attributes(use: TpmUse, handle: Any) -> int:  # noqa: ANN401 - as above
    public, _ = use.esapi.nv_read_public(handle)  # kept by a name: its parts do not outlive it
    return int(public.nvPublic.attributes)
