"""This machine's way to a class key: WrapKey for its own key pair, unwrapped here, never written.

Without ``--client-key`` a key pair is made for this one request, as the reference tool does; a policy that
wants to know the build machine then refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cpk_tool.class_keys import CLIENT_PASSPHRASE
from cpk_tool.key_files import load_private_key, read_small
from cpk_tool.output import warn
from cpk_tool.passphrase import PassphraseSource
from cpk_tool.wrap_key_client import request_wrapped_key, service_from
from shared.certificates import leaf_public_key, load_certificates
from shared.cpk.planning import ClassKey
from shared.errors import FormatError
from shared.keys.unwrapping import unwrap_key
from shared.keys.wrapping import WrapContext
from shared.public_keys import load_public_key
from shared.types import Audience, KeyName, WrapAlgorithm

if TYPE_CHECKING:
    import argparse

_EPHEMERAL_BITS = 3072
_NOWHERE = Audience("build")  # RSA wrapping binds no context


def fetch_class_key(
    options: argparse.Namespace, endpoint: str, name: KeyName, *, version: int | None = None
) -> ClassKey:
    """Return a class key, the newest version unless another one is named.

    Raises:
        EdbError: Whatever :func:`cpk_tool.wrap_key_client.request_wrapped_key` raises; ``FormatError`` if the
            client key is not RSA or not the certificate's; ``VerificationError`` if the answer does not open.
    """
    service = service_from(options, endpoint)
    private_key, certificates = _client_key(options)
    spki = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    answer = request_wrapped_key(service, name, public_key=spki, certificates=certificates, version=version)
    if answer.algorithm is WrapAlgorithm.RSA1_5:
        warn("the class key came wrapped with RSA PKCS#1 v1.5, which hides whether it is the right one")
    context = WrapContext(audience=_NOWHERE, device_id="build", name=name, version=answer.version or 1)
    key = unwrap_key(answer.wrapped, private_key, answer.algorithm, context=context)
    return ClassKey(name=name, version=answer.version, key=key)


def _client_key(options: argparse.Namespace) -> tuple[rsa.RSAPrivateKey, bytes | None]:
    if options.client_key is None:
        return rsa.generate_private_key(public_exponent=65537, key_size=_EPHEMERAL_BITS), None
    passphrase = PassphraseSource.of(options, CLIENT_PASSPHRASE, what="passphrase of the client key")
    private_key = load_private_key(options.client_key, passphrase)
    if not isinstance(private_key, rsa.RSAPrivateKey):
        raise FormatError(f"{options.client_key}: expected an RSA private key, found another kind")
    certificates = read_small(options.client_cert)
    where = str(options.client_cert)
    leaf = leaf_public_key(load_certificates(certificates, where=where)[0])
    own = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if load_public_key(own, where=str(options.client_key)).spki != leaf:
        raise FormatError(f"{where}: the first certificate is not the client key's")
    if not certificates.lstrip().startswith(b"-----BEGIN "):
        raise FormatError(f"{where}: expected PEM certificates, found DER")
    return private_key, certificates
