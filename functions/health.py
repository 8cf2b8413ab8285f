"""Health: whether the app has started; Ready: whether what it works with can be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions.contract import Call, Contract, HttpFunctions, Tag
from shared.wire.http import HealthAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.services import Services
    from shared.types import Audience

HEALTH = Contract(
    name="Health",
    method="GET",
    route="health",
    tag=Tag.HEALTH,
    summary="Whether the app has started; asks neither vault nor hub",
    answer=HealthAnswer,
    needs_key=False,
    needs_cloud=False,
)


def blueprint(services: Callable[[], Services], *, audience: Audience) -> HttpFunctions:
    """Return the functions.

    Args:
        services: Puts the services together at the first call.
        audience: The deployment's id.
    """
    functions = HttpFunctions()
    del services

    @functions.serve(HEALTH)
    def health(_call: Call) -> HealthAnswer:
        return HealthAnswer(audience=audience)

    return functions
