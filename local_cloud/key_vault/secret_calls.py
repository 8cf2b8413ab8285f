"""Calls on secrets: set, get, list, update, delete.

A secret's value is at most 25 KiB. A disabled secret is not read; ``nbf`` and ``exp`` of a secret only
inform, as in Azure, where an expired one can still be read for recovery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from local_cloud.key_vault.errors import bad_parameter, forbidden
from local_cloud.key_vault.objects import NAME, VERSION, Objects, Route
from local_cloud.key_vault.roles import Permission
from local_cloud.key_vault.store import Kind, Store, Version
from shared.types import Secret

if TYPE_CHECKING:
    from local_cloud.key_vault.requests import VaultRequest

MAX_VALUE = 25 * 1024
"""Bytes of a secret's value, UTF-8 (Azure's limit)."""


class SecretCalls:
    """The vault's secrets.

    Args:
        store: Where they are.
        base_url: The vault's own, ``https://host:port``.
    """

    def __init__(self, store: Store, base_url: str) -> None:
        self._store = store
        self._objects = Objects(store, Kind.SECRET, base_url, bundle=self._bundle, identifier="id")

    def routes(self) -> list[Route]:
        """Return every route under ``/secrets`` and ``/deletedsecrets``."""
        secret, version = f"/secrets/{NAME}", f"/secrets/{NAME}/{VERSION}"
        return [
            Route(
                method="GET",
                path="/secrets",
                permission=Permission.SECRETS_LIST,
                handle=self._objects.list_names,
            ),
            Route(
                method="GET",
                path=f"{secret}/versions",
                permission=Permission.SECRETS_LIST,
                handle=self._objects.list_versions,
            ),
            Route(method="PUT", path=secret, permission=Permission.SECRETS_SET, handle=self._set),
            Route(method="GET", path=secret, permission=Permission.SECRETS_GET, handle=self._get),
            Route(method="GET", path=version, permission=Permission.SECRETS_GET, handle=self._get),
            Route(method="PATCH", path=version, permission=Permission.SECRETS_UPDATE, handle=self._update),
            *self._objects.soft_delete_routes(),
        ]

    def _set(self, request: VaultRequest) -> dict[str, object]:
        name = request.name
        value = request.text("value").encode()
        if len(value) > MAX_VALUE:
            raise bad_parameter(f"Property value has {len(value)} bytes; a secret has at most {MAX_VALUE}")
        version = self._store.add(
            Kind.SECRET,
            name,
            material=Secret(value),
            detail={"contentType": request.optional_text("contentType")},
            attributes=request.attributes(),
            tags=request.tags() or {},
        )
        return self._with_value(version)

    def _get(self, request: VaultRequest) -> dict[str, object]:
        version = self._store.get(Kind.SECRET, request.name, request.version)
        if not version.attributes.enabled:
            raise forbidden("Operation get is not allowed on a disabled secret.", "SecretDisabled")
        return self._with_value(version)

    def _update(self, request: VaultRequest) -> dict[str, object]:
        content_type = request.optional_text("contentType")
        change = request.change(detail=None if content_type is None else {"contentType": content_type})
        return self._bundle(self._store.update(Kind.SECRET, request.name, request.version, change))

    def _with_value(self, version: Version) -> dict[str, object]:
        return {"value": version.material.reveal().decode()} | self._bundle(version)

    def _bundle(self, version: Version) -> dict[str, object]:
        content_type = version.detail["contentType"]
        bundle = {"id": self._objects.url(version)} | Objects.common(version)
        return bundle | ({} if content_type is None else {"contentType": content_type})
