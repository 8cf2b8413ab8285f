"""JSON objects as dataclasses: each field says its kind, and the object is read, written and described by it.

Example:
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Floor:
    ...     key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The class key."))
    ...     floor: int = field(metadata=wire(values.FLOOR, "Lowest version left."))
    >>> encode(Floor(key_name=KeyName("app"), floor=2))
    {'key_name': 'app', 'floor': 2}
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from shared.wire.values import Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from dataclasses import Field

    from shared.wire.request_fields import Fields

_WIRE = "wire"
_Object = TypeVar("_Object")


@dataclass(frozen=True, slots=True, kw_only=True)
class WireField:
    """What a dataclass's field is on the wire.

    Args:
        name: The member's.
        kind: Its value's.
        about: A sentence.
        is_required: Whether a request must hold it; in an answer, whether it always stands there.
        attribute: The dataclass field's name.
        default: Stands in where a request does not hold it.
    """

    name: str
    kind: Value[Any]
    about: str
    is_required: bool
    attribute: str
    default: object


def wire(kind: Value[Any], about: str, *, name: str | None = None) -> Mapping[str, object]:
    """Return the metadata of a dataclass field that stands on the wire.

    A field with a default may be left out of a request, and None of it is left out of an answer.

    Args:
        kind: Its value's.
        about: A sentence for the OpenAPI document.
        name: The member's, where it is not the field's own.
    """
    return {_WIRE: (kind, about, name)}


def wire_fields(cls: type) -> Iterator[WireField]:
    """Return a class's fields that stand on the wire."""
    for each in fields(cls):
        if _WIRE not in each.metadata:
            continue
        kind, about, name = each.metadata[_WIRE]
        default = _default(each)
        yield WireField(
            name=name or each.name,
            kind=kind,
            about=about,
            is_required=default is MISSING,
            attribute=each.name,
            default=default,
        )


def read_object(cls: type[_Object], given: Fields, **known: object) -> _Object:
    """Read an object from a request's fields.

    Args:
        cls: A dataclass of wire fields.
        given: What came.
        known: Attributes that are known already and are not read.

    Raises:
        FormatError: :class:`shared.wire.request_fields.InvalidRequestError` with every fault.
    """
    found: dict[str, object] = dict(known)
    for each in wire_fields(cls):
        if each.attribute in known:
            continue
        if each.is_required:
            found[each.attribute] = given.need(each.name, each.kind.read)
        else:
            found[each.attribute] = given.read(each.name, each.kind.read, each.default)
    given.finish()
    return cls(**found)


def encode(value: object) -> dict[str, object]:
    """Return the JSON object of an instance."""
    document = {}
    for each in wire_fields(type(value)):
        held = getattr(value, each.attribute)
        if held is not None or each.is_required:
            document[each.name] = each.kind.write(held)
    return document


def schema_of(cls: type, *, is_request: bool) -> dict[str, object]:
    """Return the JSON Schema of a class; members that are not declared are ignored.

    Args:
        cls: A dataclass of wire fields.
        is_request: Whether it is read: a member that may be missing may be null as well.
    """
    properties: dict[str, object] = {}
    for each in wire_fields(cls):
        schema = {**each.kind.schema, "description": each.about}
        if is_request and not each.is_required:
            schema = {"anyOf": [each.kind.schema, {"type": "null"}], "description": each.about}
        properties[each.name] = schema
    required = [each.name for each in wire_fields(cls) if each.is_required]
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def reference(cls: type) -> dict[str, object]:
    """Return the schema that refers to a class's."""
    return {"$ref": f"#/components/schemas/{cls.__name__}"}


def object_of(cls: type[_Object]) -> Value[_Object]:
    """Return the kind whose values are instances of a class; such values are written only."""
    return Value(schema=reference(cls), write=encode, objects=(cls,))


def list_of(cls: type[_Object]) -> Value[tuple[_Object, ...]]:
    """Return the kind of lists of instances; written only."""
    return Value(
        schema={"type": "array", "items": reference(cls)},
        write=lambda values: [encode(value) for value in values],
        objects=(cls,),
    )


def map_of(kind: Value[_Object]) -> Value[Mapping[str, _Object]]:
    """Return the kind of objects whose members are all of one kind; written only."""
    return Value(
        schema={"type": "object", "additionalProperties": kind.schema},
        write=lambda values: {name: kind.write(value) for name, value in values.items()},
        objects=kind.objects,
    )


def _default(each: Field[Any]) -> object:
    if each.default_factory is not MISSING:
        return each.default_factory()
    return each.default
