"""Starting with one OpenSSL.

:mod:`cryptography` brings an OpenSSL of its own. The standard library's ``hashlib`` and ``hmac`` would load
the system's beside it, for digests of a few bytes that the interpreter has built in as well. Left out, it is
four megabytes less in memory, and one library less in the process that holds the keys. Payloads are hashed by
:mod:`cryptography`; what it saves is measured by ``bench/footprint.py``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from types import ModuleType


def leave_out_second_openssl() -> None:
    """Let ``hashlib`` and ``hmac``, once imported, do with what the interpreter has built in.

    Does nothing if the module is loaded already.
    """
    # None makes an import fail; both expect that, for an interpreter may be built without OpenSSL.
    sys.modules.setdefault("_hashlib", cast("ModuleType", None))
