"""Reads certificates, as a program of its own: ``python -P -m device_agent.certificate_program``.

The library for certificates takes more memory than the agent itself, and is needed for moments, months apart.
So it is loaded by a process that ends when it has read one chain. The agent talks to it through
:mod:`device_agent.certificate_reader`:

=================== ==============================================================================
standard input      one JSON object: ``chain`` (base64 of PEM or DER), ``where``; with ``roots``
                    (PEM) and ``at`` (Unix seconds) the chain's path is validated, too
standard output     one JSON object: the fields of a :class:`~device_agent.certificate.
                    DeviceCertificate`, bytes as base64; or ``error``: ``code``, ``message``,
                    and ``refused``, true if the path does not hold
=================== ==============================================================================
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime

from cryptography.hazmat.primitives.serialization import Encoding

from device_agent.certificate import MAX_TWIN_BYTES, DeviceCertificate
from shared.certificate_paths import TrustStore, validate_path
from shared.certificates import device_id_of, leaf_public_key, load_certificates
from shared.encoding import decode_base64, encode_base64
from shared.errors import EdbError, FormatError, VerificationError


def parse_certificate(
    data: bytes, *, where: str, roots: str | None = None, at: float = 0.0
) -> DeviceCertificate:
    """Read a chain, leaf first, and validate its path if there are roots.

    Args:
        data: PEM or DER.
        where: What is being read, for messages.
        roots: PEM of the roots that the path must end in; None validates nothing.
        at: The time to validate it for, Unix seconds.

    Raises:
        FormatError: It is none, or too long for a twin.
        VerificationError: Its path does not end in one of ``roots``.
    """
    chain = load_certificates(data, where=where)
    der = b"".join(certificate.public_bytes(Encoding.DER) for certificate in chain)
    if len(der) > MAX_TWIN_BYTES:
        raise FormatError(f"{where}: expected at most {MAX_TWIN_BYTES} bytes of DER, found {len(der)}")
    if roots is not None:
        trust = TrustStore.from_pem(roots.encode(), where="device_roots_file")
        validate_path(chain, trust, at=datetime.fromtimestamp(at, UTC))
    leaf = chain[0]
    return DeviceCertificate(
        der=der,
        pem=b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain),
        leaf_spki=leaf_public_key(leaf),
        device_id=device_id_of(leaf),
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
    )


def answer(request: bytes) -> bytes:
    """Return the answer to one request; both are JSON, see the module."""
    asked = json.loads(request)
    try:
        read = parse_certificate(
            decode_base64(asked["chain"], where="chain"),
            where=asked["where"],
            roots=asked["roots"],
            at=asked["at"],
        )
    except EdbError as error:
        refused = isinstance(error, VerificationError)
        return json.dumps({"error": {"code": error.code, "message": str(error), "refused": refused}}).encode()
    fields = asdict(read)
    return json.dumps(
        {name: encode_base64(value) if isinstance(value, bytes) else value for name, value in fields.items()}
    ).encode()


if __name__ == "__main__":
    sys.stdout.buffer.write(answer(sys.stdin.buffer.read()))
