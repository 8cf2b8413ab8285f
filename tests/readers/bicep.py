"""Reads Bicep files with tree-sitter into plain values, as far as tests look at them.

Text keeps its interpolations as ``${…}``; any other expression is an :class:`Expression`, its source text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import tree_sitter
import tree_sitter_bicep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bicep.language()))


class Expression(str):
    """Source text that is no literal."""

    __slots__ = ()


@dataclass(frozen=True)
class Resource:
    """One ``resource``; ``scope`` and ``parent`` stand in the body."""

    symbol: str
    type: str
    api_version: str
    body: dict


@dataclass(frozen=True)
class BicepFile:
    """One file's declarations."""

    path: Path
    resources: dict[str, Resource] = field(default_factory=dict)
    modules: dict[str, tuple[str, dict]] = field(default_factory=dict)
    variables: dict[str, object] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    decorators: list[str] = field(default_factory=list)
    outputs: dict[str, object] = field(default_factory=dict)

    def of_type(self, name: str) -> list[Resource]:
        return [resource for resource in self.resources.values() if resource.type == name]

    def value(self, expression: object) -> object:
        """Return what an expression names, if it names a variable of this file."""
        return self.variables.get(expression, expression) if isinstance(expression, str) else expression


def read(path: Path) -> BicepFile:
    """Read a file; a syntax error fails the test that reads it."""
    root = _PARSER.parse(path.read_bytes()).root_node
    faults = [node for node in _walk(root) if node.is_error or node.is_missing]
    assert not faults, f"{path}: syntax error at {[node.start_point for node in faults]}"
    file = BicepFile(path=path)
    for node in root.named_children:
        _declare(file, node)
    return file


def _walk(node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _text(node: tree_sitter.Node) -> str:
    return node.text.decode()


def _declare(file: BicepFile, node: tree_sitter.Node) -> None:
    children = [child for child in node.named_children if child.type != "comment"]
    match node.type:
        case "resource_declaration":
            kind, _, version = _value(children[1]).partition("@")
            symbol = _text(children[0])
            file.resources[symbol] = Resource(symbol, kind, version, _value(children[-1]))
        case "module_declaration":
            file.modules[_text(children[0])] = (_value(children[1]), _value(children[-1]))
        case "variable_declaration":
            file.variables[_text(children[0])] = _value(children[-1])
        case "parameter_declaration":
            file.parameters[_text(children[0])] = _text(children[1])
        case "output_declaration":
            file.outputs[_text(children[0])] = _value(children[-1])
        case "decorators":
            file.decorators.extend(_text(child) for child in children)


def _value(node: tree_sitter.Node) -> object:
    match node.type:
        case "string":
            inner = _text(node)[1:-1]
            return inner.replace("\\'", "'")
        case "object":
            return dict(_property(child) for child in node.named_children if child.type == "object_property")
        case "array":
            return [_value(child) for child in node.named_children if child.type != "comment"]
        case "boolean":
            return _text(node) == "true"
        case "number":
            return int(_text(node))
    return Expression(_text(node))


def _property(node: tree_sitter.Node) -> tuple[str, object]:
    name, value = node.named_children[0], node.named_children[-1]
    key = _value(name) if name.type == "string" else _text(name)
    return str(key), _value(value)
