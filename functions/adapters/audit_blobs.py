"""The audit chain's segments as append blobs of one container.

An append names the position that it expects, so of two writers one is late and told so. The container's
immutability policy, with protected append writes, keeps even the storage account's owner from changing or
deleting what was written: that is the deployment's to set (``infra/``), and this app needs no right to.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.storage.blob import ContainerClient, ContentSettings

from functions.adapters.blob_calls import BLOB_CLIENT, blob_errors
from shared.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from azure.core.credentials import TokenCredential


class BlobSegments:
    """A :class:`functions.audit_chain.SegmentStore` in a container.

    Args:
        client: Of the container.
    """

    def __init__(self, client: ContainerClient) -> None:
        self._client = client

    @classmethod
    def connect(cls, container_url: str, credential: TokenCredential) -> BlobSegments:
        """Return a store in the container at this URL; one serves all threads."""
        client = ContainerClient.from_container_url(
            container_url,
            credential,
            **BLOB_CLIENT,
        )
        return cls(client)

    def names(self) -> Sequence[str]:
        """Return the names of all segments; see the port."""
        with blob_errors("listing the audit chain"):
            return sorted(self._client.list_blob_names())

    def read(self, name: str, *, offset: int = 0) -> bytes:
        """Return a segment's bytes from ``offset``; see the port."""
        with blob_errors("reading the audit chain"):
            try:
                return self._client.download_blob(name, offset=offset).readall()
            except HttpResponseError as error:
                if error.status_code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # it ends at the offset
                    raise
                return b""

    def create(self, name: str) -> None:
        """Make an empty append blob; see the port."""
        kind = ContentSettings(content_type="application/jsonl")
        with blob_errors("making a segment of the audit chain"):
            try:
                self._client.get_blob_client(name).create_append_blob(
                    content_settings=kind, match_condition=MatchConditions.IfMissing
                )
            except ResourceExistsError:
                return

    def append(self, name: str, data: bytes, *, offset: int) -> None:
        """Append one block; see the port."""
        with blob_errors("appending to the audit chain"):
            try:
                self._client.get_blob_client(name).append_block(data, appendpos_condition=offset)
            except HttpResponseError as error:
                if error.status_code != HTTPStatus.PRECONDITION_FAILED:
                    raise
                raise Conflict(f"{name}: does not end at {offset}", code="audit_behind") from error
