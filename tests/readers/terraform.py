"""Reads a Terraform module with python-hcl2 into plain values; expressions stay text, as ``${…}``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import hcl2

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Module:
    """A folder of ``.tf`` files as one; resources by their address, such as ``azurerm_iothub.main``."""

    resources: dict[str, dict] = field(default_factory=dict)
    local_values: dict[str, object] = field(default_factory=dict)
    variables: dict[str, dict] = field(default_factory=dict)
    providers: dict[str, dict] = field(default_factory=dict)

    def of_type(self, name: str) -> dict[str, dict]:
        return {address: body for address, body in self.resources.items() if address.startswith(f"{name}.")}


def read(folder: Path) -> Module:
    """Read every file of a folder; a syntax error fails the test that reads it."""
    module = Module()
    for path in sorted(folder.glob("*.tf")):
        with path.open(encoding="utf-8") as stream:
            document = _plain(hcl2.load(stream))
        for entry in document.get("resource", []):
            for kind, named in entry.items():
                module.resources.update({f"{kind}.{name}": body for name, body in named.items()})
        for entry in document.get("locals", []):
            module.local_values.update(entry)
        for entry in document.get("variable", []):
            module.variables.update(entry)
        for entry in document.get("provider", []):
            module.providers.update(entry)
    return module


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {
            _plain(name): _plain(entry)
            for name, entry in value.items()
            if name not in {"__is_block__", "__comments__", "__inline_comments__"}
        }
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, str) and len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value
