"""The function app itself over a simulated hub and vault, with one device; messages are tried again at once.

The vault is down as long as the file ``vault-down`` is there.
"""

import os
from pathlib import Path

from simulators.app import environment, services_of
from simulators.cloud import APP, Cloud

from functions.app import build_app
from shared.errors import TransportError

folder = Path(os.environ["APP_FOLDER"])


class Vault:
    """A store of class keys that can be down."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        return getattr(self._store, name)

    def states(self):
        """Return the class keys, unless the vault is down."""
        if (folder / "vault-down").exists():
            raise TransportError("the vault is down", code="vault_unavailable")
        return self._store.states()


cloud = Cloud()
cloud.class_keys.provision(APP, bits=256)
cloud.store = Vault(cloud.store)
cloud.enrol("edge-01")
app = build_app(environment(cloud, folder), connect_services=lambda settings: services_of(cloud, settings))
