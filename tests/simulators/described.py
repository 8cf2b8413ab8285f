"""Holds answers to the OpenAPI document: what is answered and not described fails the test that saw it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

if TYPE_CHECKING:
    from collections.abc import Mapping

_URI = "urn:openapi"


class DescribedApi:
    """The document of an app.

    Attributes:
        seen: What was answered: operation, status, code of the problem or None.
    """

    def __init__(self, document: Mapping[str, object]) -> None:
        resource = Resource(contents=document, specification=DRAFT202012)
        self._registry = Registry().with_resource(_URI, resource)
        self.operations = {
            (operation["operationId"], method.upper()): (operation, f"{_pointer(path)}/{method}")
            for path, item in document["paths"].items()
            for method, operation in item.items()
        }
        self.seen: set[tuple[str, int, str | None]] = set()

    def check(self, name: str, method: str, reply) -> None:
        """Fail if an answer is not what the document says of this operation."""
        code = reply.document.get("code") if reply.status >= 400 else None
        self.seen.add((name, reply.status, code))
        if (name, method) not in self.operations:
            assert (reply.status, code) == (405, "method_not_allowed"), (name, method, reply.status)
            self._validate(f"{_URI}#/components/schemas/Problem", reply.document)
            return
        operation, pointer = self.operations[name, method]
        response = operation["responses"].get(str(reply.status))
        assert response is not None, f"{name}: {reply.status} {code} is not described"
        content_type = reply.headers["Content-Type"].partition(";")[0]
        assert set(response["content"]) == {content_type}, (name, reply.status, content_type)
        for header in response["headers"]:
            assert header.lower() in {each.lower() for each in reply.headers}, (name, header)
        media = content_type.replace("/", "~1")
        self._validate(
            f"{_URI}#/paths/{pointer}/responses/{reply.status}/content/{media}/schema", reply.document
        )

    def _validate(self, reference: str, instance: object) -> None:
        Draft202012Validator({"$ref": reference}, registry=self._registry).validate(instance)


def _pointer(path: str) -> str:
    escaped = path.replace("~", "~0").replace("/", "~1")
    return escaped.replace("{", "%7B").replace("}", "%7D")
