"""``cpk-tool build``: seal a payload into a package under a class key, and sign both."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cpk_tool.atomic_file import replacing
from cpk_tool.class_keys import KeySource, add_class_key_source, client_problems
from cpk_tool.key_files import read_small
from cpk_tool.options import add_json
from cpk_tool.output import DONE, UsageError, print_json, warn
from cpk_tool.progress import reading
from cpk_tool.reports import print_sealed, sealed_document
from cpk_tool.scheme_options import add_schemes, chosen_profile, chosen_scheme, scheme_problems
from cpk_tool.signing_keys.port import CertifiedSigner
from cpk_tool.signing_options import add_signing, read_certified, signer_from, signing_problems
from shared.cpk.fields import U32_MAX
from shared.cpk.manifest import Target, Version
from shared.cpk.offline import OfflineSigner
from shared.cpk.planning import ClassKey, Description
from shared.cpk.sealing import SealedPackage, seal_package
from shared.errors import FormatError, SettingsError
from shared.types import parse_key_name

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from shared.cpk.profiles import Profile

_VERSION = re.compile(r"(0|[1-9]\d{0,9})\.(0|[1-9]\d{0,9})\.(0|[1-9]\d{0,9})", re.ASCII)
_NONCE_LABEL = b"cpk-tool --deterministic-for-tests\0"
_EPOCH_VARIABLE = "SOURCE_DATE_EPOCH"
_TEST_EPOCH = 946_684_800  # 2000-01-01

Signer = CertifiedSigner | OfflineSigner


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Seal a payload into a package under a class key, and sign it.\n\n"
        "-i, -o and -a are needed; without --sign-key the package is unsigned, and no device takes it. The\n"
        "payload is read once; memory stays the same for any size. The package appears under its name when\n"
        "it is whole and on disk; an error or an interrupt leaves nothing behind."
    )
    add = parser.add_argument
    add("-i", "--in-file", type=Path, metavar="FILE", help="the payload, in clear; a regular file")
    add("-o", "--out-file", type=Path, metavar="FILE", help="the package to write")
    add("-a", "--application-id", metavar="ID", help="the application, and its class key")
    add(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file with any of these options by their long names, such as cpk.toml; flags win",
    )
    add_class_key_source(parser)
    add(
        "-w",
        "--wrap-method",
        choices=("local", "parsec"),
        default="local",
        help="who unwraps the class key on this machine; only local is supported",
    )
    add("--key-name", metavar="NAME", help="the class key's name; by default the application's id")
    manifest = parser.add_argument_group("manifest")
    manifest.add_argument("-n", "--name", metavar="TEXT", help="the application's name; by default its id")
    manifest.add_argument("-v", "--vendor", default="", metavar="TEXT", help="the vendor's name")
    manifest.add_argument(
        "--package-version", default="1.0.0", metavar="X.Y.Z", help="the payload's version; by default 1.0.0"
    )
    manifest.add_argument(
        "--target-arch", default="any", metavar="TEXT", help="processor that the payload is for"
    )
    manifest.add_argument(
        "--target-os", default="any", metavar="TEXT", help="operating system that the payload is for"
    )
    add_schemes(parser)
    add_signing(parser, title="signing; without these the package is unsigned")
    offline = parser.add_argument_group("signing elsewhere, with the commands digest and sign")
    offline.add_argument(
        "--signature", type=Path, metavar="FILE", help="the payload's signature, made elsewhere; needs --cert"
    )
    offline.add_argument(
        "--prepare",
        action="store_true",
        help="leave room for the signatures that are missing; every reader refuses the package until then",
    )
    parser.add_argument(
        "--deterministic-for-tests",
        metavar="SEED",
        help="make nonce and date from this and $SOURCE_DATE_EPOCH, so that the same input gives the same "
        "bytes; breaks the encryption if a seed is used twice under one key",
    )
    add_json(parser)
    parser.epilog = _EXAMPLES


_EXAMPLES = """\
examples:
  # with a class key from the key service
  cpk-tool build -i app.pyz -o app.cpk -a my_app -k https://keys.example/api/WrapKey \\
      --client-key build.key --client-cert build.pem --sign-key sign.key --cert sign.pem
  # to try things out, with a class key from a file
  cpk-tool build -i app.pyz -o app.cpk -a my_app -k keys.json --sign-key sign.key --cert sign.pem
  # signed in Azure Key Vault, and by a PKCS#11 token
  cpk-tool build -c cpk.toml --sign-key https://my-vault.vault.azure.net/keys/packages --cert sign.pem
  cpk-tool build -c cpk.toml --sign-key 'pkcs11:token=hsm;object=packages' --pin-file pin --cert sign.pem
  # signed on another machine
  cpk-tool build -c cpk.toml --prepare --cert sign.pem -o app.prepared

cpk.toml:
  application-id = "my_app"
  package-version = "1.2.0"
  vendor = "My company"
  in-file = "dist/app.pyz"
  out-file = "dist/app.cpk"
  key-store = "https://keys.example/api/WrapKey"
"""


def run(options: argparse.Namespace) -> int:
    """Build a package."""
    _check_usage(options)
    description = _description(options)
    name = parse_key_name(options.key_name or options.application_id, where="class key name")
    profile = chosen_profile(options)
    with _signer(options) as signer, options.in_file.open("rb", buffering=0) as source:
        status = _payload_status(options, source)
        size = status.st_size
        _check_reproducible(options, signer)
        class_key = KeySource.of(options).to_seal(name)
        with replacing(options.out_file) as output, reading(source, options.in_file.name, size) as counted:
            sealed = seal_package(
                counted,
                size,
                output,
                description=description,
                class_key=class_key,
                nonce=_nonce(options, profile),
                signer=signer,
                profile=profile,
                package_signature=options.prepare or options.signature is None,
            )
            _check_unchanged(source, status)
    _warn(options, sealed, signer)
    _report(options, sealed, class_key, signer)
    return DONE


def _check_usage(options: argparse.Namespace) -> None:
    """Tell everything that is wrong with the command line and its file together."""
    problems = list(getattr(options, "config_problems", ()))
    required = {"-i": options.in_file, "-o": options.out_file, "-a": options.application_id}
    missing = [name for name, value in required.items() if value is None]
    if missing and not problems:
        problems.append(f"expected {', '.join(missing)}, on the command line or in --config, found neither")
    if options.wrap_method == "parsec":
        problems.append("-w parsec: expected local, parsec is not supported")
    if _version_numbers(options.package_version) is None:
        problems.append(
            f"--package-version: expected three numbers up to {U32_MAX} such as 1.0.0, "
            f"found {options.package_version!r}"
        )
    problems += client_problems(options) + scheme_problems(options)
    problems += signing_problems(options, offline=_is_offline(options))
    if problems:
        raise SettingsError(problems)


def _is_offline(options: argparse.Namespace) -> bool:
    return bool(options.prepare or options.signature is not None)


def _version_numbers(text: str) -> tuple[int, int, int] | None:
    match = _VERSION.fullmatch(text)
    if match is None or max(numbers := [int(digits) for digits in match.groups()]) > U32_MAX:
        return None
    major, minor, revision = numbers
    return major, minor, revision


def _description(options: argparse.Namespace) -> Description:
    major, minor, revision = _version_numbers(options.package_version) or (0, 0, 0)
    return Description(
        id=options.application_id,
        name=options.name if options.name is not None else options.application_id,
        vendor=options.vendor,
        target=Target(arch=options.target_arch, os=options.target_os),
        version=Version(major=major, minor=minor, revision=revision, date=_date(options)),
    )


def _date(options: argparse.Namespace) -> datetime:
    if options.deterministic_for_tests is None:
        return datetime.now(UTC)
    text = os.environ.get(_EPOCH_VARIABLE, str(_TEST_EPOCH))
    try:
        return datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"${_EPOCH_VARIABLE}: expected seconds since 1970, found {text!r}") from error


def _nonce(options: argparse.Namespace, profile: Profile) -> bytes:
    seed: str | None = options.deterministic_for_tests
    if seed is None:
        return os.urandom(profile.nonce_size)
    return hashlib.shake_256(_NONCE_LABEL + seed.encode()).digest(profile.nonce_size)


def _check_reproducible(options: argparse.Namespace, signer: Signer | None) -> None:
    if options.deterministic_for_tests is None:
        return
    warn("--deterministic-for-tests: two packages of one seed and class key give both payloads away")
    if isinstance(signer, CertifiedSigner) and not signer.is_reproducible:
        raise UsageError(
            f"--deterministic-for-tests: expected signatures that are the same every time, "
            f"found {signer.scheme.value}",
            hint="use an RSA (rsa-pkcs1v15), EC or Ed25519 key in a PEM file",
        )


@contextlib.contextmanager
def _signer(options: argparse.Namespace) -> Iterator[Signer | None]:
    if not _is_offline(options):
        with signer_from(options) as signer:
            yield signer
        return
    certified = read_certified(options)
    yield OfflineSigner.load(
        certified.data or b"",
        where=certified.where,
        scheme=chosen_scheme(options),
        place=certified.place,
        payload_signature=read_small(options.signature) if options.signature is not None else None,
    )


def _payload_status(options: argparse.Namespace, source: BinaryIO) -> os.stat_result:
    status = os.fstat(source.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"{options.in_file}: expected a regular file, found something else")
    if options.out_file.exists() and options.in_file.samefile(options.out_file):
        raise UsageError("-o: expected another file than -i, found the same one")
    return status


def _check_unchanged(source: BinaryIO, before: os.stat_result) -> None:
    """Refuse what was written to while it was read: a payload that never was as a whole."""
    if os.fstat(source.fileno()).st_mtime_ns != before.st_mtime_ns:
        raise FormatError("payload: expected a file that stays as it is, it was written to while it was read")


def _warn(options: argparse.Namespace, sealed: SealedPackage, signer: Signer | None) -> None:
    if signer is None:
        warn("the package is not signed: a CPM refuses it; sign with --sign-key and --cert")
    elif options.prepare:
        warn("the package is prepared: fill its signatures in with `cpk-tool sign`")
    elif sealed.manifest.package.signature is None:
        warn("the package is signed in its payload alone; --prepare leaves room for its own signature")


def _report(
    options: argparse.Namespace, sealed: SealedPackage, class_key: ClassKey, signer: Signer | None
) -> None:
    document = sealed_document(options.out_file, sealed, class_key, signer)
    if options.json:
        print_json({"result": "ok", **document, "profile": options.profile, "prepared": options.prepare})
    else:
        print_sealed(document, prepared=options.prepare)
