"""The OpenAPI document: generated, committed, complete, and an OpenAPI 3.1 document."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path

import jsonschema
import pytest
from jsonschema import Draft202012Validator
from schemathesis.specs.openapi.definitions import OPENAPI_31

from functions.openapi_file import render
from shared import strict_json

COMMITTED = Path(__file__).parents[3] / "docs" / "spec" / "openapi.json"


@pytest.fixture
def document(app):
    return app.request("OpenApi", method="GET").document


def operations(document):
    return {
        operation["operationId"]: (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def test_the_committed_document_is_the_one_that_is_served(document):
    assert COMMITTED.read_text() == render(), (
        "renew it: python -m functions.openapi_file docs/spec/openapi.json"
    )
    assert strict_json.loads(COMMITTED.read_bytes(), where="openapi.json") == document


def test_it_is_an_openapi_3_1_document_whose_schemas_are_schemas(document):
    jsonschema.validate(document, OPENAPI_31, cls=Draft202012Validator)
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_http_function_is_described_and_nothing_else_is(app, document):
    served = {}
    for name, function in app.functions.items():
        trigger = next(b for b in function.get_bindings() if b.get_binding_name().endswith("Trigger"))
        if trigger.get_binding_name() == "httpTrigger":
            served[name] = trigger
    described = operations(document)
    assert set(described) == set(served)
    for name, (method, path, operation) in described.items():
        trigger = served[name]
        assert path == f"/{trigger.route}"
        assert method in {each.value for each in trigger.methods}
        assert bool(operation["security"]) == (trigger.auth_level.value != "anonymous"), name


def test_every_functions_arguments_are_its_bindings_with_types_that_resolve(app):
    """The platform's worker reads them so, and refuses the app otherwise."""
    for name, function in app.functions.items():
        code = function.get_user_function()
        bindings = {binding.name for binding in function.get_bindings() if binding.name != "$return"}
        assert set(inspect.signature(code).parameters) == bindings, name
        assert set(typing.get_type_hints(code)) - {"return"} == bindings, name


def test_a_routes_parameters_are_all_described(document):
    for _, path, operation in operations(document).values():
        described = {each["name"] for each in operation.get("parameters", []) if each.get("in") == "path"}
        assert described == set(re.findall(r"\{(\w+)\}", path))


def test_references_lead_somewhere(document):
    text = COMMITTED.read_text()
    for kind, name in re.findall(r'"#/components/(\w+)/(\w+)"', text):
        assert name in document["components"][kind]
