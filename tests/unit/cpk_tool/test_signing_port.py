"""A signer holds what comes back from a key to the certified one; what is not installed is named."""

import hashlib
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cpk_tool.signing_keys.pem import PemSigningKey
from cpk_tool.signing_keys.port import CertifiedSigner
from shared.cpk.schemes import PreSharedCertificate, SignatureScheme
from shared.cpk.signing import Role, verify
from shared.cpk.signing_keys import load_verification_key
from shared.errors import VerificationError

SCHEME = SignatureScheme.ECDSA_P256
DIGEST = hashlib.sha256(b"x").digest()


def new_key():
    private = ec.generate_private_key(ec.SECP256R1())
    spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PemSigningKey(private, load_verification_key(spki, where="test"))


def signer(key, certified):
    return CertifiedSigner(
        key=key,
        verification_key=certified.public_key,
        scheme=SCHEME,
        certification=PreSharedCertificate(domain="test"),
        subject="test",
    )


def test_a_signature_by_the_certified_key_passes():
    key = new_key()

    signature = signer(key, key).sign(DIGEST, Role.PACKAGE)

    verify(key.public_key.key, SCHEME, signature, DIGEST, Role.PACKAGE)


def test_a_signature_by_another_key_goes_into_no_package():
    with pytest.raises(VerificationError, match="payload signature does not hold under the certified key"):
        signer(new_key(), new_key()).sign(DIGEST, Role.PAYLOAD)


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("pkcs11", ["build", "--sign-key", "pkcs11:object=x"], "pkcs11"),
        ("azure.keyvault.keys", ["build", "--sign-key", "https://v.example/keys/x"], "tool"),
        ("shtab", ["completion", "bash"], "tool"),
    ],
)
def test_what_is_not_installed_is_named_with_how_to_install_it(tmp_path, module, arguments, extra):
    needed = ["-i", "x", "-o", "y", "-a", "z", "--cert-domain", "d"] if arguments[0] == "build" else []
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"from cpk_tool.main import main; sys.exit(main({[*arguments, *needed]!r}))"
    )

    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    assert ran.returncode == 1
    assert "the package" in ran.stderr
    assert f"hint: pip install 'enclave-device-blueprint[{extra}]'" in ran.stderr
    assert "Traceback" not in ran.stderr
