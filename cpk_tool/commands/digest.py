"""``cpk-tool digest``: what is to be signed, for a key that is on another machine."""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cpk_tool.atomic_file import replacing
from cpk_tool.key_files import read_small
from cpk_tool.options import add_json
from cpk_tool.output import DONE, print_fields, print_json, print_line
from cpk_tool.progress import reading
from cpk_tool.scheme_options import chosen_scheme
from cpk_tool.signing_options import add_certification, read_certified
from shared.cpk.hashing import HashAlgorithm
from shared.cpk.offline import SigningRequest, package_to_sign, payload_to_sign, request_for
from shared.cpk.schemes import SignatureScheme
from shared.cpk.signing import Role
from shared.cpk.signing_keys import choose_scheme
from shared.errors import SettingsError

if TYPE_CHECKING:
    import argparse
    import io
    from collections.abc import Mapping

_OPENSSL_OPTIONS: Mapping[SignatureScheme, tuple[str, ...]] = {
    SignatureScheme.RSA_PKCS1V15: ("-pkeyopt", "digest:sha256"),
    SignatureScheme.RSA_PSS: (
        *("-pkeyopt", "digest:sha256", "-pkeyopt", "rsa_padding_mode:pss"),
        *("-pkeyopt", "rsa_pss_saltlen:32"),
    ),
    SignatureScheme.ECDSA_P256: ("-pkeyopt", "digest:sha256"),
    SignatureScheme.ECDSA_P384: ("-pkeyopt", "digest:sha384"),
    SignatureScheme.ED25519: ("-rawin",),
    SignatureScheme.ML_DSA_65: ("-rawin",),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Print what is to be signed, for a key that is on another machine.\n\n"
        "Either for a payload in clear, with -i and --cert, whose signature then goes into `cpk-tool build\n"
        "--signature`; or for a package that was built with --prepare, first its payload's, then its own.\n"
        "With -o the bytes to sign are written to a file, as openssl takes them."
    )
    add = parser.add_argument
    add("package", type=Path, nargs="?", metavar="PACKAGE_FILE", help="a package built with --prepare")
    add("-i", "--in-file", type=Path, metavar="FILE", help="a payload in clear")
    add(
        "--role",
        choices=tuple(role.value for role in Role),
        default=Role.PAYLOAD.value,
        help="which signature; the package's needs the payload's; by default payload",
    )
    add("--signature", type=Path, metavar="FILE", help="the payload's signature, unless the package holds it")
    add("--digest", choices=tuple(each.value for each in HashAlgorithm), help="as for build, with -i")
    add("-o", "--out-file", type=Path, metavar="FILE", help="write the bytes to sign into this file")
    add_certification(parser.add_argument_group("the key that will sign, with -i"))
    add_json(parser)
    parser.epilog = _EXAMPLES


_EXAMPLES = """\
examples:
  # a package of any profile: prepare, sign its payload, then the package, with a key that openssl holds
  cpk-tool build -c cpk.toml -o app.prepared --prepare --cert sign.pem
  cpk-tool digest app.prepared -o payload.tbs
  openssl pkeyutl -sign -inkey sign.key -in payload.tbs -pkeyopt digest:sha256 -out payload.sig
  cpk-tool digest app.prepared --role package --signature payload.sig -o package.tbs
  openssl pkeyutl -sign -inkey sign.key -in package.tbs -pkeyopt digest:sha256 -out package.sig
  cpk-tool sign app.prepared -o app.cpk --signature payload.sig --package-signature package.sig
  # the payload alone, in clear, before anything is built
  cpk-tool digest -i app.pyz --cert sign.pem -o payload.tbs
  openssl pkeyutl -sign -inkey sign.key -in payload.tbs -pkeyopt digest:sha256 -out payload.sig
  cpk-tool build -c cpk.toml --signature payload.sig --cert sign.pem
"""


def run(options: argparse.Namespace) -> int:
    """Tell what is to be signed."""
    if problems := _problems(options):
        raise SettingsError(problems)
    request = _of_payload(options) if options.in_file is not None else _of_package(options)
    if options.out_file is not None:
        with replacing(options.out_file) as output:
            output.write(request.message)
    what = options.in_file or options.package
    if options.json:
        print_json({"result": "ok", "file": str(what), **_document(options, request)})
        return DONE
    print_line(f"{what}: to be signed for the {request.role.value}")
    document = _document(options, request)
    shown = {name.replace("_", " "): value for name, value in document.items() if value is not None}
    print_fields({**shown, "with openssl": shlex.join(_openssl(options, request))})
    return DONE


def _problems(options: argparse.Namespace) -> list[str]:
    problems = []
    if (options.in_file is None) is (options.package is None):
        problems.append("expected a package, or a payload in -i, found both or neither")
    if options.in_file is not None:
        if options.cert is None:
            problems.append("-i: expected --cert with the key's certificate, found none")
        if options.role == Role.PACKAGE.value or options.signature is not None:
            problems.append("-i: expected a package for --role package and --signature")
    return problems


def _of_payload(options: argparse.Namespace) -> SigningRequest:
    certified = read_certified(options)
    assert certified.key is not None  # noqa: S101 - there is a --cert, as checked above
    scheme = choose_scheme(certified.key, chosen_scheme(options))
    wanted = HashAlgorithm(options.digest) if options.digest is not None else HashAlgorithm.SHA256
    algorithm = scheme.digest_algorithm or wanted
    size = options.in_file.stat().st_size
    with (
        options.in_file.open("rb", buffering=0) as file,
        reading(file, options.in_file.name, size) as counted,
    ):
        digest = hashlib.file_digest(cast("io.RawIOBase", counted), algorithm.value).digest()
    return request_for(scheme, algorithm, digest, Role.PAYLOAD)


def _of_package(options: argparse.Namespace) -> SigningRequest:
    signature = read_small(options.signature) if options.signature is not None else None
    with options.package.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        with reading(file, options.package.name, size) as counted:
            if options.role == Role.PAYLOAD.value:
                return payload_to_sign(counted, size)
            return package_to_sign(counted, size, payload_signature=signature)


def _document(options: argparse.Namespace, request: SigningRequest) -> dict[str, object]:
    return {
        "role": request.role.value,
        "scheme": request.scheme.value,
        "digest_algorithm": request.algorithm.value,
        "digest": request.digest.hex(),
        "to_be_signed": request.message.hex(),
        "out_file": str(options.out_file) if options.out_file is not None else None,
    }


def _openssl(options: argparse.Namespace, request: SigningRequest) -> list[str]:
    """Return the command that signs the file of ``-o`` with a key in a PEM file."""
    to_sign = str(options.out_file or f"{request.role.value}.tbs")
    command = ["openssl", "pkeyutl", "-sign", "-inkey", "sign.key", "-in", to_sign]
    return [*command, *_OPENSSL_OPTIONS[request.scheme], "-out", f"{request.role.value}.sig"]
