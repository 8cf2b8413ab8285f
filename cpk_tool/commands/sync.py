"""``cpk-tool sync``: give the CPM of this device a class key, version 1 of the contract.

The key is wrapped for the CPM's public key before it comes here; this command never opens one, except the
method ``file``, which wraps a key that lies in the clear already.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cpk_tool.cpm_client import add_socket, device_public_key
from cpk_tool.key_files import FileKeyStore
from cpk_tool.options import (
    FILE_KEY_SOURCE,
    HTTP_KEY_SOURCE,
    add_json,
    add_wrap_key_service,
    key_store,
)
from cpk_tool.output import DONE, UsageError, print_json, print_line, warn
from shared.encoding import decode_base64
from shared.errors import KeyUnavailable, NotFound
from shared.keys.wrapping import WrapContext, wrap_key
from shared.types import Audience, KeyName, WrapAlgorithm, parse_key_name
from shared.wire.cpm_channel import connect

if TYPE_CHECKING:
    import argparse

    from shared.public_keys import PublicKey

_TIMEOUT_SECONDS = 60.0
_NOWHERE = Audience("sync")  # RSA wrapping binds no context


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add("-a", "--application-id", required=True, metavar="ID", help="the class key's name")
    add(
        "-m",
        "--key-method",
        required=True,
        choices=("http", "file", "commandline", "azuretwin"),
        help="where the key comes from; file is for tests",
    )
    add(
        "-k",
        "--key-store",
        metavar="URL_FILE_OR_KEY",
        help=(
            f"WrapKey endpoint (else ${HTTP_KEY_SOURCE}), key file (else ${FILE_KEY_SOURCE}), "
            "or base64 of a key wrapped for this device"
        ),
    )
    add_socket(parser)
    add_wrap_key_service(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  cpk-tool sync -a my_app -m http -k https://keys.example/api/WrapKey\n"
        '  cpk-tool sync -a my_app -m commandline -k "$WRAPPED"'
    )


def run(options: argparse.Namespace) -> int:
    """Hand a wrapped class key to the CPM."""
    if options.key_method == "azuretwin":
        raise UsageError(
            "-m azuretwin: expected http, file or commandline; the twin is the device agent's work",
            hint="run device-agent on this device",
        )
    name = parse_key_name(options.application_id, where="-a")
    with connect(options.socket, timeout=_TIMEOUT_SECONDS) as cpm:
        wrapped = _wrapped_key(options, name, device_public_key(cpm))
        cpm.call("install_application_key", {"application_id": name, "wrapped_key": wrapped})
    if options.json:
        print_json({"result": "ok", "key_name": name})
    else:
        print_line(f"class key {name}: installed")
    return DONE


def _wrapped_key(options: argparse.Namespace, name: KeyName, device_key: PublicKey) -> bytes:
    if options.key_method == "commandline":
        if not options.key_store:
            raise UsageError("-m commandline: expected a wrapped key in -k, found none")
        return decode_base64(options.key_store, where="-k")
    if options.key_method == "file":
        return _wrapped_from_file(options, name, device_key)
    from cpk_tool.wrap_key_client import (  # noqa: PLC0415 - the HTTP client is slow to import
        request_wrapped_key,
        service_from,
    )

    service = service_from(options, key_store(options, variable=HTTP_KEY_SOURCE, what="a WrapKey endpoint"))
    return request_wrapped_key(service, name, public_key=device_key.spki, certificates=None).wrapped


def _wrapped_from_file(options: argparse.Namespace, name: KeyName, device_key: PublicKey) -> bytes:
    warn("a class key in a file is for tests only")
    path = Path(key_store(options, variable=FILE_KEY_SOURCE, what="a key file"))
    try:
        key = FileKeyStore.load(path).get(name)
    except KeyUnavailable as error:
        raise NotFound(str(error)) from error
    context = WrapContext(audience=_NOWHERE, device_id="sync", name=name, version=1)
    return wrap_key(key, device_key, WrapAlgorithm.RSA_OAEP_256, context=context)
