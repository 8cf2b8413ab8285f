"""PCR policies: which PCRs of the SHA-256 bank must hold what, and the digest that says so.

A PCR holds a digest of everything that was measured into it since the start of the machine. An object with
such a policy is used only while the PCRs hold what they held, or what they were expected to hold, when it was
made.

The digest of ``TPM2_PolicyPCR`` (TPM 2.0 Part 3) is computed here rather than by the TPM, so
that a policy can be made for values that the PCRs do not hold yet.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from tpm2_pytss.constants import TPM2_ALG, TPM2_CC
from tpm2_pytss.types import TPML_PCR_SELECTION, TPMS_PCR_SELECTION

from shared.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cpm.custody.tpm_device import TpmDevice

DIGEST_BYTES: Final = 32
_AT_ONCE = 8  # values that one TPM2_PCR_Read returns at most

UNMEASURED: Final = frozenset({bytes(DIGEST_BYTES), b"\xff" * DIGEST_BYTES})
"""What a PCR holds that nothing was measured into."""


def selection_of(pcrs: Sequence[int]) -> Any:  # noqa: ANN401 - the binding has no types
    """Return a selection as commands take it; no PCR at all is a selection, too."""
    if not pcrs:
        return TPML_PCR_SELECTION()
    return TPML_PCR_SELECTION([TPMS_PCR_SELECTION(hash=TPM2_ALG.SHA256, pcrs=tuple(pcrs))])


def read_pcrs(device: TpmDevice, pcrs: Sequence[int]) -> Mapping[int, bytes]:
    """Return what PCRs hold now.

    Raises:
        NotFound: The TPM has no such PCR in a SHA-256 bank.
        TransportError: As for :meth:`cpm.custody.tpm_device.TpmDevice.use`.
    """
    values: list[bytes] = []
    with device.use("reading PCRs") as use:
        for first in range(0, len(pcrs), _AT_ONCE):
            _, _, digests = use.esapi.pcr_read(selection_of(pcrs[first : first + _AT_ONCE]))
            values += [bytes(digest) for digest in digests]
    if len(values) != len(pcrs):
        raise NotFound(
            f"tpm: expected {len(pcrs)} PCRs in a SHA-256 bank, found {len(values)}",
            hint="switch the TPM's SHA-256 bank on, or choose other PCRs",
        )
    return dict(zip(pcrs, values, strict=True))


def policy_digest(values: Mapping[int, bytes]) -> bytes:
    """Return the digest of the policy that PCRs hold these values, 32 bytes each."""
    pcrs = sorted(values)
    held = hashlib.sha256(b"".join(values[pcr] for pcr in pcrs)).digest()
    command = int(TPM2_CC.PolicyPCR).to_bytes(4, "big")
    return hashlib.sha256(bytes(DIGEST_BYTES) + command + selection_of(pcrs).marshal() + held).digest()
