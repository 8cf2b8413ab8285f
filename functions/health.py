"""Health: whether the app has started and its settings are read; says nothing about vault and hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import azure.functions as func

from functions.endpoint import Answer, respond

if TYPE_CHECKING:
    from functions.settings import Settings


def blueprint(settings: Settings) -> func.Blueprint:
    """Return the function.

    Args:
        settings: What the app was started with.
    """
    functions = func.Blueprint()  # type: ignore[no-untyped-call] # the SDK leaves it untyped

    @functions.function_name(name="Health")
    @functions.route(route="health", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
    def health(req: func.HttpRequest) -> func.HttpResponse:
        return respond(req, lambda _: Answer(document={"status": "ok", "audience": settings.audience}))

    return functions
