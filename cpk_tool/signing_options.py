"""Who signs: the options, and the signer that is made of them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cpk_tool.key_files import read_small
from cpk_tool.options import location
from cpk_tool.output import UsageError
from cpk_tool.passphrase import PassphraseSource, add_passphrase
from cpk_tool.scheme_options import chosen_scheme
from cpk_tool.signing_keys.port import CertifiedSigner
from shared.cpk.schemes import CertificateUrl, PreSharedCertificate, SignatureScheme
from shared.cpk.signing_keys import DEMO_KEY_SHA256, VerificationKey, choose_scheme, read_certification
from shared.errors import FormatError
from shared.pkcs11_uri import Pkcs11Uri

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from cpk_tool.signing_keys.port import SigningKey
    from shared.cpk.signing import SignerCertification

_PASSPHRASE, _PIN = "--sign-key-passphrase", "--pin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """What certifies a signature.

    Attributes:
        certification: What goes into the package.
        key: The public key, where it is known.
        subject: Whom it stands for.
        data: The certificate's or key's file, if there is one.
        where: What that file is called, or where the certificate is to be found.
        place: Where verifiers find it, if it is not embedded.
    """

    certification: SignerCertification
    key: VerificationKey | None
    subject: str
    data: bytes | None
    where: str
    place: PreSharedCertificate | CertificateUrl | None


def add_signing(parser: argparse.ArgumentParser, *, title: str) -> None:
    """Declare the signing key and what certifies it."""
    group = parser.add_argument_group(title)
    add_signing_key(group)
    add_certification(group)


def add_signing_key(group: argparse._ArgumentGroup) -> None:
    """Declare where the signing key is, and what opens it."""
    group.add_argument(
        "--sign-key",
        type=location,
        metavar="FILE_OR_URI",
        help="private key in PEM, https://VAULT/keys/NAME[/VERSION] in Azure Key Vault, or "
        "'pkcs11:token=LABEL;object=LABEL' in a token",
    )
    add_passphrase(group, _PASSPHRASE, what="the passphrase of a PEM key")
    add_passphrase(group, _PIN, what="the user PIN of a PKCS#11 token")
    group.add_argument(
        "--pkcs11-module",
        type=location,
        metavar="FILE",
        help="the token's library; by default $CPK_PKCS11_MODULE",
    )
    group.add_argument(
        "--insecure-vault-challenge",
        action="store_true",
        help="take a vault outside the domain that its challenge names; for a local vault only",
    )


def add_certification(group: argparse._ArgumentGroup) -> None:
    """Declare what certifies a signature."""
    group.add_argument(
        "--cert",
        type=Path,
        metavar="FILE",
        help="certificate chain, leaf first, or a bare public key; PEM or DER, embedded as it is",
    )
    places = group.add_mutually_exclusive_group()
    places.add_argument(
        "--cert-url", metavar="URL", help="say where the certificate is instead of embedding it"
    )
    places.add_argument(
        "--cert-domain",
        metavar="DOMAIN",
        help="say that devices have the certificate in their own store, under this domain",
    )
    group.add_argument(
        "--signature-scheme",
        choices=tuple(scheme.value for scheme in SignatureScheme),
        help="by default the key's own; rsa-pkcs1v15 for RSA",
    )


def signing_problems(options: argparse.Namespace, *, offline: bool) -> list[str]:
    """Return what is wrong with the options of :func:`add_signing`, one line each.

    Args:
        options: The command line.
        offline: Whether signatures come from elsewhere, so that no key is needed.
    """
    certified = any(getattr(options, name) is not None for name in ("cert", "cert_url", "cert_domain"))
    if offline:
        problems = []
        if options.cert is None:
            problems.append("expected --cert with the key's certificate, found none")
        if options.sign_key is not None:
            problems.append("expected no --sign-key beside --prepare and --signature, found one")
        return problems
    if certified is not (options.sign_key is not None):
        return ["expected --sign-key and --cert together, found one of them"]
    if options.cert_url is not None and not options.cert_url.startswith("https://"):
        return [f"--cert-url: expected an https:// URL, found {options.cert_url!r}"]
    return []


@contextlib.contextmanager
def signer_from(options: argparse.Namespace) -> Iterator[CertifiedSigner | None]:
    """Yield the signer that the command line names, or None if it names none.

    Raises:
        FormatError: Key, certificate and scheme do not belong together, or it is the public demo key.
        EdbError: As for opening a :class:`SigningKey`.
    """
    if options.sign_key is None:
        yield None
        return
    certified = read_certified(options)
    with contextlib.closing(open_signing_key(options)) as key:
        yield _signer(key, certified, chosen_scheme(options))


def read_certified(options: argparse.Namespace) -> Certified:
    """Return what certifies, as the command line says.

    Raises:
        FormatError: The file is no certificate and no public key, or one that signs no packages.
        OSError: It cannot be read.
    """
    place: PreSharedCertificate | CertificateUrl | None = None
    if options.cert_url is not None:
        place = CertificateUrl(url=options.cert_url)
    elif options.cert_domain is not None:
        place = PreSharedCertificate(domain=options.cert_domain)
    if options.cert is not None:
        data, where = read_small(options.cert), str(options.cert)
        embedded, key, subject = read_certification(data, where=where)
        certification = place if place is not None else embedded
        return Certified(
            certification=certification, key=key, subject=subject, data=data, where=where, place=place
        )
    if place is None:
        raise UsageError("expected --cert, --cert-url or --cert-domain, found none")
    return Certified(
        certification=place, key=None, subject=place.place, data=None, where=place.place, place=place
    )


def _signer(key: SigningKey, certified: Certified, wanted: SignatureScheme | None) -> CertifiedSigner:
    own = key.public_key
    if own is not None and certified.key is not None and own.spki != certified.key.spki:
        raise FormatError(f"{certified.where}: the first certificate is not the signing key's")
    public = own or certified.key
    if public is None:
        raise UsageError("expected the key's certificate in --cert: the token keeps no public half of it")
    if public.sha256 == DEMO_KEY_SHA256:
        raise FormatError(
            f"{certified.where}: expected a key of your own, found the reference tool's public demo key"
        )
    return CertifiedSigner(
        key=key,
        verification_key=public,
        scheme=choose_scheme(public, wanted),
        certification=certified.certification,
        subject=certified.subject,
    )


def open_signing_key(options: argparse.Namespace) -> SigningKey:
    """Return the key that ``--sign-key`` names; whoever asked closes it.

    Raises:
        EdbError: As for the kind of key.
    """
    text: str = options.sign_key
    if text.startswith("https://"):
        from cpk_tool.signing_keys.key_vault import VaultSigningKey  # noqa: PLC0415 - the SDK is slow to import

        return VaultSigningKey(text, verify_challenge=not options.insecure_vault_challenge)
    if text.startswith("pkcs11:"):
        return _open_token_key(options, text)
    from cpk_tool.signing_keys.pem import PemSigningKey  # noqa: PLC0415 - as the others

    passphrase = PassphraseSource.of(options, _PASSPHRASE, what="passphrase of the signing key")
    return PemSigningKey.load(Path(text), passphrase)


def _open_token_key(options: argparse.Namespace, text: str) -> SigningKey:
    from cpk_tool.signing_keys.pkcs11_token import TokenSigningKey  # noqa: PLC0415 - an optional package

    try:
        uri = Pkcs11Uri.parse(text, where="--sign-key")
    except FormatError as error:
        raise UsageError(str(error), hint=error.hint) from error
    pin = PassphraseSource.of(options, _PIN, what="PIN of the token")
    if uri.pin_file is not None and pin.file is None and pin.fd is None:
        pin = PassphraseSource(what=pin.what, option=_PIN, file=Path(uri.pin_file))
    return TokenSigningKey(uri, module=options.pkcs11_module, pin=pin.ask)
