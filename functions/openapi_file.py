"""Write the OpenAPI document: ``python -m functions.openapi_file docs/spec/openapi.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn

from functions.app import http_functions
from functions.openapi import describe
from shared.types import Audience


def render() -> str:
    """Return the document as its committed copy holds it."""
    served = http_functions(_never, audience=Audience("fleet-a"))
    document = describe(contract for functions in served for contract in functions.contracts)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _never() -> NoReturn:
    raise AssertionError("describing contracts serves none")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
