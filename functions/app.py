"""The composition root of the function app.

Settings, policy and roots are read when the app is built, so that a mistake in them stops it before it
serves; the vault and the hub are connected to at the first call.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import azure.functions as func

from functions import distribute_key, fleet, health, key_lifecycle, provision_key, wrap_key
from functions.services import connect
from functions.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from functions.services import Services


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
    services = _Once(lambda: connect_services(settings))
    app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
    app.register_functions(health.blueprint(settings))
    for contract in (provision_key, key_lifecycle, wrap_key, distribute_key, fleet):
        app.register_functions(contract.blueprint(services))
    return app


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
