"""What a hostile public key or certificate costs whoever is shown it, beside an honest one.

Every line is one key or chain as a stranger may send it: in WrapKey's body, or in a twin. ``python
bench/hostile_keys.py`` prints the median and the slowest of many tries, in microseconds of processor time.
"""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from shared.certificate_paths import TrustStore, validate_path
from shared.certificates import load_certificates
from shared.errors import EdbError
from shared.public_keys import load_public_key

if TYPE_CHECKING:
    from collections.abc import Callable

    AnyKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

TRIES = 300
NOW = datetime.now(UTC)
CA = x509.BasicConstraints(ca=True, path_length=None)
ISSUER = ec.generate_private_key(ec.SECP256R1())


def spki(key: AnyKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def rsa_public(bits: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(exponent, (1 << (bits - 1)) | 12345).public_key()


def certificate(subject: str, issuer: str, key: AnyKey, *, is_ca: bool = False) -> x509.Certificate:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
    )
    if is_ca:
        builder = builder.add_extension(CA, critical=True)
    return builder.sign(ISSUER, hashes.SHA256())


ROOT = certificate("root", "root", ISSUER.public_key(), is_ca=True)
TRUST = TrustStore(roots=(ROOT,))


def chain_of(key: AnyKey, *, issuer_key: AnyKey | None = None) -> bytes:
    leaf = certificate("edge-01", "ca" if issuer_key else "root", key)
    chain = [leaf, certificate("ca", "root", issuer_key, is_ca=True)] if issuer_key else [leaf]
    return b"".join(each.public_bytes(Encoding.DER) for each in chain)


def load_key(data: bytes) -> Callable[[], object]:
    return lambda: load_public_key(data, where="bench")


def show_chain(data: bytes) -> Callable[[], object]:
    return lambda: validate_path(load_certificates(data, where="bench"), TRUST, at=NOW)


P256 = ec.generate_private_key(ec.SECP256R1()).public_key()
CASES: dict[str, Callable[[], object]] = {
    "key: honest RSA-2048": load_key(spki(rsa_public(2048))),
    "key: honest P-256": load_key(spki(P256)),
    "key: exponent of 2,000 bits": load_key(spki(rsa_public(2048, (1 << 1999) | 1))),
    "key: RSA of 16,384 bits": load_key(spki(rsa_public(16384))),
    "key: a byte behind the DER": load_key(spki(P256) + b"\0"),
    "key: curve secp256k1": load_key(spki(ec.generate_private_key(ec.SECP256K1()).public_key())),
    "chain: honest leaf": show_chain(chain_of(P256)),
    "chain: leaf, exponent of 2,000 bits": show_chain(chain_of(rsa_public(2048, (1 << 1999) | 1))),
    "chain: leaf, RSA of 16,384 bits": show_chain(chain_of(rsa_public(16384))),
    "chain: leaf, exponent of 16,000 bits": show_chain(chain_of(rsa_public(16384, (1 << 15999) | 1))),
    "chain: issuer, exponent of 2,000 bits": show_chain(
        chain_of(P256, issuer_key=rsa_public(2048, (1 << 1999) | 1))
    ),
    "chain: issuer, curve secp256k1": show_chain(
        chain_of(P256, issuer_key=ec.generate_private_key(ec.SECP256K1()).public_key())
    ),
    "chain: 8 of RSA of 16,384 bits": show_chain(chain_of(rsa_public(16384)) * 8),
    "chain: a byte behind the DER": show_chain(chain_of(P256) + b"\0"),
}


def measure(act: Callable[[], object]) -> tuple[str, list[float]]:
    outcome, times = "accepted", []
    for _ in range(TRIES):
        start = time.thread_time()
        try:
            act()
        except EdbError as error:
            outcome = f"refused: {error.code}"
        times.append((time.thread_time() - start) * 1e6)
    return outcome, times


def main() -> None:
    print(f"{'':40} {'median':>8} {'slowest':>8}  us, of {TRIES}")
    for label, act in CASES.items():
        outcome, times = measure(act)
        print(f"{label:40} {statistics.median(times):8.0f} {max(times):8.0f}  {outcome}")


if __name__ == "__main__":
    main()
