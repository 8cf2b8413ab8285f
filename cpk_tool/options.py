"""Options that several commands take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cpk_tool.output import UsageError

if TYPE_CHECKING:
    import argparse

HTTP_KEY_SOURCE = "CP_CLOUD_KEY_SOURCE"
FILE_KEY_SOURCE = "CP_FILE_KEY_SOURCE"


def location(text: str, *, folder: Path | None = None) -> str:
    """Return a path or an address as it was given; a relative path counts from ``folder`` if there is one."""
    if folder is None or text.startswith(("https://", "http://", "pkcs11:")):
        return text
    return str(folder / text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    parser.add_argument("--json", action="store_true", help="write one JSON document to standard output")


def add_wrap_key_service(parser: argparse.ArgumentParser) -> None:
    """Declare how the WrapKey service is reached."""
    group = parser.add_argument_group("key service, with the method http")
    group.add_argument("--ca-file", type=Path, metavar="FILE", help="PEM roots to trust for TLS")
    group.add_argument(
        "--function-key-file",
        type=Path,
        metavar="FILE",
        help="holds the function key; by default $CPK_FUNCTION_KEY, or ?code= in the URL",
    )
    group.add_argument(
        "--insecure-http", action="store_true", help="take an http:// address; for a local test only"
    )
    group.add_argument(
        "--insecure-allow-rsa1_5",
        dest="insecure_allow_rsa1_5",
        action="store_true",
        help="take a key that was wrapped with RSA PKCS#1 v1.5, as the reference service does",
    )


def key_store(options: argparse.Namespace, *, variable: str, what: str) -> str:
    """Return ``-k``, or the environment variable that stands for it.

    Raises:
        UsageError: There is neither.
    """
    value: str | None = options.key_store or os.environ.get(variable)
    if not value:
        raise UsageError(f"expected {what} in -k or ${variable}, found neither")
    return value
