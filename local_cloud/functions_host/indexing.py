"""Load a function app and check what it says of itself, before anything is served.

The SDK finds functions without a trigger and with two of the same name; here we find what only the
platform's host would notice, late: parameters that match no binding, annotations that a binding cannot
fill, bindings that this host does not have. The first fault ends the start with one clear message.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import types
import typing
from typing import TYPE_CHECKING, Any

import azure.functions as func
from azure.functions.meta import get_binding_registry

from local_cloud.functions_host.definitions import (
    RETURN,
    FunctionDefinition,
    Output,
    OutputType,
    Trigger,
    TriggerType,
)
from local_cloud.functions_host.engine import Callee
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import ModuleType

_CONTEXT = "context"


def load_app(folder: Path) -> tuple[Callee, ...]:
    """Import ``function_app`` from ``folder`` and return its functions, in the order of the file.

    Raises:
        FormatError: It cannot be imported, holds not exactly one app, or a function does not fit its
            bindings.
    """
    if not (folder / "function_app.py").is_file():
        raise FormatError(f"{folder}: expected a function app, found no function_app.py")
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module("function_app")
    except Exception as error:
        raise FormatError(
            f"{folder / 'function_app.py'}: cannot be imported: {type(error).__name__}: {error}"
        ) from error
    try:
        functions = _app_of(module, folder).get_functions()
    except ValueError as error:  # the SDK's own checks
        raise FormatError(f"{folder / 'function_app.py'}: {error}") from error
    return tuple(_callee(function) for function in functions)


def _app_of(module: ModuleType, folder: Path) -> func.FunctionRegister:
    apps = {id(value): value for value in vars(module).values() if isinstance(value, func.FunctionRegister)}
    if len(apps) != 1:
        raise FormatError(
            f"{folder / 'function_app.py'}: expected exactly one top-level FunctionApp, found {len(apps)}"
        )
    return next(iter(apps.values()))


def _callee(function: Any) -> Callee:  # noqa: ANN401 - the SDK does not export the class
    name, code = function.get_function_name(), function.get_user_function()
    bindings = [json.loads(binding) for binding in function.get_raw_bindings()]
    triggers = [binding for binding in bindings if binding["type"].endswith("Trigger")]
    others = [binding for binding in bindings if not binding["type"].endswith("Trigger")]
    definition = FunctionDefinition(
        name=name, trigger=_trigger(name, triggers[0]), outputs=tuple(_output(name, item) for item in others)
    )
    parameters = set(inspect.signature(code).parameters)
    _check_parameters(definition, parameters)
    _check_annotations(definition, code)
    return Callee(definition=definition, code=code, wants_context=_CONTEXT in parameters)


def _trigger(name: str, binding: dict[str, Any]) -> Trigger:
    try:
        kind = TriggerType(binding["type"])
    except ValueError as error:
        raise FormatError(
            f"function {name}: trigger {binding['type']} is not served here; known are {_listed(TriggerType)}"
        ) from error
    return Trigger(argument=binding["name"], type=kind, members=binding)


def _output(name: str, binding: dict[str, Any]) -> Output:
    try:
        kind = OutputType(binding["type"])
    except ValueError as error:
        raise FormatError(
            f"function {name}: binding {binding['type']} is not served here; known are {_listed(OutputType)}"
        ) from error
    if binding["direction"] != "OUT":
        raise FormatError(f"function {name}: binding {binding['name']}: input bindings are not served here")
    return Output(argument=binding["name"], type=kind, queue=binding.get("queueName", ""))


def _listed(kinds: Iterable[TriggerType | OutputType]) -> str:
    return ", ".join(kind.value for kind in kinds)


def _check_parameters(definition: FunctionDefinition, parameters: set[str]) -> None:
    arguments = [output.argument for output in definition.outputs]
    twice = {argument for argument in arguments if arguments.count(argument) > 1}
    if twice:
        raise FormatError(f"function {definition.name}: two bindings take {_names(twice)}")
    bound = {definition.trigger.argument} | {output.argument for output in definition.outputs} - {RETURN}
    unbound, missing = parameters - bound - {_CONTEXT}, bound - parameters
    if unbound:
        raise FormatError(f"function {definition.name}: no binding fills the parameter {_names(unbound)}")
    if missing:
        raise FormatError(f"function {definition.name}: no parameter takes the binding {_names(missing)}")


def _check_annotations(definition: FunctionDefinition, code: Callable[..., Any]) -> None:
    try:
        hints = typing.get_type_hints(code)
    except (NameError, TypeError) as error:
        raise FormatError(
            f"function {definition.name}: its annotations cannot be resolved: {error}"
        ) from error
    trigger = definition.trigger
    hint = hints.get(trigger.argument)
    converter = get_binding_registry().get(trigger.type.value)  # type: ignore[no-untyped-call] # the SDK's
    if hint is not None and not converter.check_input_type_annotation(hint):
        raise FormatError(
            f"function {definition.name}: parameter {trigger.argument}: "
            f"{trigger.type.value} cannot fill {hint}"
        )
    for output in definition.outputs:
        hint = hints.get(output.argument)
        if hint is not None and func.Out not in {hint, typing.get_origin(hint)}:
            raise FormatError(
                f"function {definition.name}: parameter {output.argument}: expected func.Out[…], found {hint}"
            )
        for held in typing.get_args(hint):
            # The platform's worker takes list[str], a generic of the language's own, for no type at all.
            if isinstance(held, types.GenericAlias):
                raise FormatError(
                    f"function {definition.name}: parameter {output.argument}: expected a class or one of "
                    f"typing's generics in func.Out, found {held}"
                )


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names))
