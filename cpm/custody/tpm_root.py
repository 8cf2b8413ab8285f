"""The storage root at rest in a TPM: sealed data under a policy over PCRs.

What is sealed is the root, 32 bytes, and the index of the counter, u32: who changes one without the other has
neither. The file holds one sealing for every approved state of the platform, and any of them opens it.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Self

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import TPM2_ALG, TPM2_RC, TPMA_OBJECT
from tpm2_pytss.types import (
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMS_KEYEDHASH_PARMS,
    TPMS_SENSITIVE_CREATE,
    TPMT_KEYEDHASH_SCHEME,
    TPMT_PUBLIC,
    TPMU_PUBLIC_PARMS,
)

from cpm.custody.storage_root import ROOT_BYTES, StorageRoot, damaged
from cpm.custody.tpm_counter import FIRST_INDEX, INDEX_COUNT, free_index
from cpm.custody.tpm_files import RootFile, Sealing
from cpm.custody.tpm_pcrs import UNMEASURED, policy_digest, read_pcrs, selection_of
from shared.errors import StorageError
from shared.types import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cpm.custody.tpm_device import TpmDevice

log = logging.getLogger("cpm")

_INDEX_BYTES = 4
_INDICES = range(FIRST_INDEX, FIRST_INDEX + INDEX_COUNT)
_ATTRIBUTES = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.NODA
_OTHER_PLATFORM = frozenset(map(int, (TPM2_RC.POLICY_FAIL, TPM2_RC.PCR_CHANGED)))


class SealedRoot:
    """The storage root with what is needed to seal it anew.

    Args:
        root: 32 bytes.
        index: The counter's index in the TPM.
        pcrs: The PCRs that it is sealed to.
    """

    def __init__(self, root: Secret, *, index: int, pcrs: tuple[int, ...]) -> None:
        self.storage = StorageRoot(root)
        self.index = index
        self.pcrs = pcrs
        self._root = root

    @classmethod
    def make(cls, device: TpmDevice, pcrs: Sequence[int]) -> Self:
        """Return a new one, not yet written.

        Raises:
            StorageError: No counter is free.
            TransportError: ``custody_unavailable``.
        """
        return cls(Secret(os.urandom(ROOT_BYTES)), index=free_index(device), pcrs=tuple(pcrs))

    @classmethod
    def open(cls, device: TpmDevice, file: RootFile, *, where: str) -> Self:
        """Open the first sealing whose policy the platform satisfies.

        Raises:
            StorageError: ``platform_changed``; or ``state_damaged``.
            Conflict: ``state_of_another``; it is another TPM's.
            TransportError: ``custody_unavailable``.
        """
        device.expect_parent(file.parent, where=where)
        for sealing in file.sealings:
            content = _unseal(device, sealing, where=where)
            if content is not None:
                root, index = content[:ROOT_BYTES], int.from_bytes(content[ROOT_BYTES:], "big")
                if len(content) != ROOT_BYTES + _INDEX_BYTES or index not in _INDICES:
                    raise damaged(f"{where}: the sealed storage root is none")
                return cls(Secret(root), index=index, pcrs=sealing.pcrs)
        pcrs = sorted({pcr for sealing in file.sealings for pcr in sealing.pcrs})
        raise StorageError(
            f"{where}: PCRs {','.join(map(str, pcrs))} do not hold what the storage root was sealed to",
            code="platform_changed",
            hint="start the software that was approved, and approve the other one there with cpm reseal",
        )

    def write(self, folder: Path, device: TpmDevice, *expected: Mapping[int, bytes]) -> None:
        """Write it, sealed to what its PCRs hold now and to what else they may hold.

        Args:
            folder: The state folder.
            device: The TPM.
            expected: Values of PCRs that will differ from now.

        Raises:
            StorageError: The disk refused; the old file stays.
            NotFound: The TPM has no such PCR.
            TransportError: ``custody_unavailable``.
        """
        now = read_pcrs(device, self.pcrs)
        unmeasured = [pcr for pcr, value in now.items() if value in UNMEASURED]
        if unmeasured:  # such a policy holds for whatever software is started
            log.warning("pcrs_unmeasured", extra={"code": ",".join(map(str, unmeasured))})
        sealings = tuple(self._seal(device, {**now, **values}) for values in ({}, *expected))
        RootFile(parent=device.parent_name, sealings=sealings).write(folder)

    def _seal(self, device: TpmDevice, values: Mapping[int, bytes]) -> Sealing:
        content = self._root.reveal() + self.index.to_bytes(_INDEX_BYTES, "big")
        public = TPM2B_PUBLIC(
            publicArea=TPMT_PUBLIC(
                type=TPM2_ALG.KEYEDHASH,
                nameAlg=TPM2_ALG.SHA256,
                objectAttributes=_ATTRIBUTES,
                authPolicy=policy_digest(values),
                parameters=TPMU_PUBLIC_PARMS(
                    keyedHashDetail=TPMS_KEYEDHASH_PARMS(scheme=TPMT_KEYEDHASH_SCHEME(scheme=TPM2_ALG.NULL))
                ),
            )
        )
        sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=content))
        with device.use("sealing the storage root") as use:
            return Sealing(
                pcrs=tuple(sorted(values)), sealed=use.create(sensitive, public, session=use.session())
            )


def _unseal(device: TpmDevice, sealing: Sealing, *, where: str) -> bytes | None:
    """Return what is sealed, or None if the platform is in another state."""
    with device.use("opening the storage root") as use:
        # Loading needs no session of its own, and policy sessions serve what their policy says alone.
        handle = use.load(sealing.sealed, where=where)
        session = use.session(policy=True)
        use.esapi.policy_pcr(session, None, selection_of(sealing.pcrs))
        try:
            return bytes(use.esapi.unseal(handle, session1=session))
        except TSS2_Exception as error:
            if error.error in _OTHER_PLATFORM:
                return None
            raise
