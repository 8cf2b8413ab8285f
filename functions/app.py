"""The composition root of the function app.

Settings and roots are read when the app is built, and a policy file is tried, so that a mistake in them stops
it before it serves; vault, hub, policy and audit chain are connected to at the first call.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import azure.functions as func

from functions import (
    audit_log,
    device_binding,
    distribute_key,
    fleet,
    health,
    holders,
    key_lifecycle,
    openapi,
    provision_key,
    reconcile_devices,
    release_policy,
    rollout,
    set_aside,
    telemetry,
    vault_events,
    wrap_key,
)
from functions.services import connect
from functions.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from functions.contract import HttpFunctions
    from functions.services import Services
    from shared.types import Audience


def build_app(
    environment: Mapping[str, str], *, connect_services: Callable[[Settings], Services] = connect
) -> func.FunctionApp:
    """Return the function app.

    Args:
        environment: Where the settings are read from.
        connect_services: Puts the services together; tests give one that needs no cloud.

    Raises:
        SettingsError: With every problem of the settings.
    """
    settings = Settings.from_environment(environment)
    telemetry.configure(environment)
    services = _Once(lambda: connect_services(settings))
    app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
    app.register_functions(distribute_key.blueprint(services))
    app.register_functions(set_aside.blueprint(services))
    app.register_functions(vault_events.blueprint())
    for functions in http_functions(services, audience=settings.audience):
        app.register_functions(functions)
    return app


def http_functions(services: Callable[[], Services], *, audience: Audience) -> list[HttpFunctions]:
    """Return the functions that serve HTTP, the one that describes them included.

    Args:
        services: Puts the services together at the first call.
        audience: The deployment's id.
    """
    modules = (
        provision_key,
        key_lifecycle,
        rollout,
        wrap_key,
        fleet,
        holders,
        reconcile_devices,
        device_binding,
        release_policy,
        audit_log,
    )
    contracts = [each.blueprint(services) for each in modules]
    contracts.append(health.blueprint(services, audience=audience))
    return [*contracts, openapi.blueprint(contracts)]


class _Once:
    """Makes the services at the first call, whichever thread makes it; a failure is tried again."""

    def __init__(self, make: Callable[[], Services]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: Services | None = None

    def __call__(self) -> Services:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made
