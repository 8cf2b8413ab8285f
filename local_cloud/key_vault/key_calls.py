"""Calls on keys: create, get, list, update, rotate, delete, and the cryptographic operations."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from local_cloud.key_vault import keys
from local_cloud.key_vault.errors import bad_parameter
from local_cloud.key_vault.keys import KeyOperation, Keyring, KeyType
from local_cloud.key_vault.objects import NAME, VERSION, Objects, Route
from local_cloud.key_vault.roles import Permission
from local_cloud.key_vault.store import Attributes, Kind, Store, Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from local_cloud.key_vault.requests import VaultRequest


class KeyCalls:
    """The vault's keys.

    Args:
        store: Where they are.
        base_url: The vault's own, ``https://host:port``.
    """

    def __init__(self, store: Store, base_url: str) -> None:
        self._store = store
        self._keyring = Keyring()
        self._objects = Objects(store, Kind.KEY, base_url, bundle=self._bundle, identifier="kid")

    def routes(self) -> list[Route]:
        """Return every route under ``/keys`` and ``/deletedkeys``."""
        key, version = f"/keys/{NAME}", f"/keys/{NAME}/{VERSION}"
        fixed = [
            Route(
                method="GET", path="/keys", permission=Permission.KEYS_LIST, handle=self._objects.list_names
            ),
            Route(
                method="POST", path=f"{key}/create", permission=Permission.KEYS_CREATE, handle=self._create
            ),
            Route(
                method="POST", path=f"{key}/rotate", permission=Permission.KEYS_ROTATE, handle=self._rotate
            ),
            Route(
                method="GET",
                path=f"{key}/versions",
                permission=Permission.KEYS_LIST,
                handle=self._objects.list_versions,
            ),
            Route(method="GET", path=key, permission=Permission.KEYS_GET, handle=self._get),
            Route(method="GET", path=version, permission=Permission.KEYS_GET, handle=self._get),
            Route(method="PATCH", path=version, permission=Permission.KEYS_UPDATE, handle=self._update),
        ]
        operations = [
            Route(
                method="POST",
                path=f"{version}/{operation.value.lower()}",
                permission=Permission(f"keys/{operation.value}"),
                handle=self._operation(operation),
            )
            for operation in KeyOperation
        ]
        return [*fixed, *operations, *self._objects.soft_delete_routes()]

    def _create(self, request: VaultRequest) -> dict[str, object]:
        name = request.name
        key_type = _key_type(request.text("kty"))
        operations = _operations(request) or keys.default_operations(key_type)
        attributes, tags = request.attributes(), request.tags() or {}
        key = keys.generate(
            key_type, size=request.optional_number("key_size"), curve=request.optional_text("crv")
        )
        return self._add(
            name, key=key, key_type=key_type, operations=operations, attributes=attributes, tags=tags
        )

    def _rotate(self, request: VaultRequest) -> dict[str, object]:
        old = self._store.get(Kind.KEY, request.name)
        key_type = _key_type(str(old.detail["kty"]))
        key = keys.generate_like(self._keyring.load(old.material), key_type)
        operations = tuple(_allowed(old))
        return self._add(
            old.name,
            key=key,
            key_type=key_type,
            operations=operations,
            attributes=Attributes(),
            tags=dict(old.tags),
        )

    def _add(
        self,
        name: str,
        *,
        key: keys.PrivateKey,
        key_type: KeyType,
        operations: tuple[KeyOperation, ...],
        attributes: Attributes,
        tags: dict[str, str],
    ) -> dict[str, object]:
        names = [operation.value for operation in KeyOperation if operation in operations]
        version = self._store.add(
            Kind.KEY,
            name,
            material=keys.dump(key),
            detail={"kty": key_type.value, "key_ops": names},
            attributes=attributes,
            tags=tags,
        )
        return self._bundle(version)

    def _get(self, request: VaultRequest) -> dict[str, object]:
        return self._bundle(self._store.get(Kind.KEY, request.name, request.version))

    def _update(self, request: VaultRequest) -> dict[str, object]:
        operations = _operations(request)
        detail = None if operations is None else {"key_ops": [operation.value for operation in operations]}
        change = request.change(detail=detail)
        return self._bundle(self._store.update(Kind.KEY, request.name, request.version, change))

    def _bundle(self, version: Version) -> dict[str, object]:
        jwk: dict[str, object] = {
            "kid": self._objects.url(version),
            "kty": version.detail["kty"],
            "key_ops": version.detail["key_ops"],
        }
        return {"key": jwk | keys.public_jwk(self._keyring.load(version.material))} | Objects.common(version)

    def _operation(self, operation: KeyOperation) -> Callable[[VaultRequest], dict[str, object]]:
        def handle(request: VaultRequest) -> dict[str, object]:
            algorithm = request.text("alg")
            version = self._store.get(Kind.KEY, request.name, request.version)
            keys.check_permitted(operation, _allowed(version), version.attributes, now=int(time.time()))
            key = self._keyring.load(version.material)
            if operation is KeyOperation.VERIFY:
                return {
                    "value": keys.verify(key, algorithm, request.octets("digest"), request.octets("value"))
                }
            perform = _PERFORM[operation]
            result = perform(key, algorithm, request.octets("value"))
            return {"kid": self._objects.url(version), "value": keys.encode_base64url(result)}

        return handle


_PERFORM: dict[KeyOperation, Callable[[keys.PrivateKey, str, bytes], bytes]] = {
    KeyOperation.ENCRYPT: keys.encrypt,
    KeyOperation.WRAP: keys.encrypt,
    KeyOperation.DECRYPT: keys.decrypt,
    KeyOperation.UNWRAP: keys.decrypt,
    KeyOperation.SIGN: keys.sign,
}


def _key_type(text: str) -> KeyType:
    try:
        return KeyType(text)
    except ValueError as error:
        offered = ", ".join(kind.value for kind in KeyType)
        raise bad_parameter(
            f"Property kty has invalid value {text[:32]!r}; this vault has {offered}"
        ) from error


def _operations(request: VaultRequest) -> tuple[KeyOperation, ...] | None:
    texts = request.texts("key_ops")
    if not texts:
        return None
    try:
        return tuple(KeyOperation(text) for text in texts)
    except ValueError as error:
        raise bad_parameter("Property key_ops holds an unknown operation") from error


def _allowed(version: Version) -> frozenset[KeyOperation]:
    names = version.detail["key_ops"]
    return frozenset(operation for operation in KeyOperation if operation.value in names)  # type: ignore[operator] # written by _add
