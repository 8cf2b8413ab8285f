"""What keys and secrets have in common: identifiers, attributes, paging and soft delete.

Routes carry the permission that they need, so that no call is served without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from local_cloud.key_vault.errors import bad_parameter
from local_cloud.key_vault.roles import Permission
from local_cloud.key_vault.store import RECOVERABLE_DAYS, Kind, Store, Version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from local_cloud.key_vault.requests import VaultRequest

NAME = "{name}"
"""The part of a route that is an object's name."""

VERSION = "{version:[^/]*}"
"""The part of a route that is a version; empty for the current one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One call of the vault: what is asked for, who may ask, and what answers.

    ``handle`` returns the JSON body, or ``None`` for 204.
    """

    method: str
    path: str
    permission: Permission
    handle: Callable[[VaultRequest], Mapping[str, object] | None]


class Objects:
    """Keys or secrets, as far as they are alike.

    Args:
        store: Where they are.
        kind: Which of the two.
        base_url: The vault's own, ``https://host:port``; identifiers and links begin with it.
        bundle: Returns a version as a caller of a single object sees it, but for a secret's value.
        identifier: JSON name of the identifier: ``kid`` or ``id``.
    """

    def __init__(
        self,
        store: Store,
        kind: Kind,
        base_url: str,
        *,
        bundle: Callable[[Version], dict[str, object]],
        identifier: str,
    ) -> None:
        self._store = store
        self._kind = kind
        self._base_url = base_url
        self._bundle = bundle
        self._identifier = identifier

    def url(self, version: Version) -> str:
        """Return the full identifier of a version."""
        return f"{self._base_url}/{self._kind.value}s/{version.name}/{version.version}"

    @staticmethod
    def common(version: Version) -> dict[str, object]:
        """Return the members that every bundle and item has."""
        attributes: dict[str, object] = {
            "enabled": version.attributes.enabled,
            "created": version.created,
            "updated": version.updated,
            "recoveryLevel": "CustomizedRecoverable+Purgeable",
            "recoverableDays": RECOVERABLE_DAYS,
        }
        if version.attributes.not_before is not None:
            attributes["nbf"] = version.attributes.not_before
        if version.attributes.expires is not None:
            attributes["exp"] = version.attributes.expires
        return {"attributes": attributes, "tags": dict(version.tags)}

    def list_names(self, request: VaultRequest) -> dict[str, object]:
        """Answer a page of the objects that are not deleted."""
        return self._page_of_names(request, deleted=False)

    def list_versions(self, request: VaultRequest) -> dict[str, object]:
        """Answer a page of one object's versions, oldest first."""
        after = request.after or "0"
        if not (after.isascii() and after.isdigit()):
            raise bad_parameter("The continuation token is invalid")
        limit = request.page_size
        found = self._store.versions(self._kind, request.name, after=int(after), limit=limit + 1)
        page, more = found[:limit], len(found) > limit
        link = f"/{self._kind.value}s/{request.name}/versions"
        return {
            "value": [self._item(version, self.url(version)) for version in page],
            "nextLink": self._next(link, request, str(page[-1].sequence)) if more else None,
        }

    def soft_delete_routes(self) -> list[Route]:
        """Return the routes of deleting, listing what is deleted, recovering and purging."""
        plural = f"{self._kind.value}s"
        deleted = f"/deleted{plural}/{NAME}"
        actions = [
            ("DELETE", f"/{plural}/{NAME}", "delete", self._delete),
            ("GET", f"/deleted{plural}", "list", self._list_deleted),
            ("GET", deleted, "get", self._get_deleted),
            ("DELETE", deleted, "purge", self._purge),
            ("POST", f"{deleted}/recover", "recover", self._recover),
        ]
        return [
            Route(method=method, path=path, permission=Permission(f"{plural}/{action}"), handle=handle)
            for method, path, action, handle in actions
        ]

    def _delete(self, request: VaultRequest) -> dict[str, object]:
        return self._deleted_bundle(self._store.delete(self._kind, request.name))

    def _get_deleted(self, request: VaultRequest) -> dict[str, object]:
        return self._deleted_bundle(self._store.get_deleted(self._kind, request.name))

    def _list_deleted(self, request: VaultRequest) -> dict[str, object]:
        return self._page_of_names(request, deleted=True)

    def _recover(self, request: VaultRequest) -> dict[str, object]:
        return self._bundle(self._store.recover(self._kind, request.name))

    def _purge(self, request: VaultRequest) -> None:
        self._store.purge(self._kind, request.name)

    def _deleted_bundle(self, version: Version) -> dict[str, object]:
        return self._bundle(version) | self._deletion(version)

    def _deletion(self, version: Version) -> dict[str, object]:
        return {
            "recoveryId": f"{self._base_url}/deleted{self._kind.value}s/{version.name}",
            "deletedDate": version.deleted_at,
            "scheduledPurgeDate": version.purge_at,
        }

    def _page_of_names(self, request: VaultRequest, *, deleted: bool) -> dict[str, object]:
        limit = request.page_size
        found = self._store.names(self._kind, deleted=deleted, after=request.after, limit=limit + 1)
        page, more = found[:limit], len(found) > limit
        items = []
        for version in page:
            item = self._item(version, f"{self._base_url}/{self._kind.value}s/{version.name}")
            items.append(item | self._deletion(version) if deleted else item)
        link = f"/deleted{self._kind.value}s" if deleted else f"/{self._kind.value}s"
        return {"value": items, "nextLink": self._next(link, request, page[-1].name) if more else None}

    def _item(self, version: Version, identifier: str) -> dict[str, object]:
        item = {self._identifier: identifier} | self.common(version)
        content_type = version.detail.get("contentType")
        return item | ({} if content_type is None else {"contentType": content_type})

    def _next(self, path: str, request: VaultRequest, after: str) -> str:
        query = {
            "api-version": request.query["api-version"],
            "$skiptoken": after,
            "maxresults": str(request.page_size),
        }
        return f"{self._base_url}{path}?{urlencode(query)}"
