"""The release policy in a blob: asked for by its ETag, so that an unchanged one costs a 304."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobClient, ContentSettings

from functions.adapters.blob_calls import BLOB_CLIENT, blob_errors
from functions.policy_source import StoredPolicy
from shared.errors import Conflict, NotFound
from shared.policy.document import MAX_POLICY_BYTES

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential


class BlobPolicyStore:
    """A :class:`functions.policy_source.PolicyStore` in a blob.

    Args:
        client: Of the blob.
    """

    def __init__(self, client: BlobClient) -> None:
        self._client = client

    @classmethod
    def connect(cls, url: str, credential: TokenCredential) -> BlobPolicyStore:
        """Return a store in the blob at this URL; one serves all threads."""
        client = BlobClient.from_blob_url(
            url,
            credential,
            **BLOB_CLIENT,
        )
        return cls(client)

    def read(self, *, unless: str | None) -> StoredPolicy | None:
        """Return the document; see the port."""
        condition = {} if unless is None else _condition(unless, MatchConditions.IfModified)
        with blob_errors("reading the policy"):
            try:
                # One more byte than a policy may have, so that a longer one is refused.
                found = self._client.download_blob(offset=0, length=MAX_POLICY_BYTES + 1, **condition)
                return StoredPolicy(data=found.readall(), etag=str(found.properties.etag))
            except ResourceNotFoundError as error:
                raise NotFound("there is no policy blob", code="policy_missing") from error
            except HttpResponseError as error:  # of which kind, differs between the SDK's clients
                if error.status_code != HTTPStatus.NOT_MODIFIED:
                    raise
                return None

    def write(self, data: bytes, *, etag: str | None) -> str:
        """Replace the blob; see the port."""
        condition = (
            {"match_condition": MatchConditions.IfMissing}
            if etag is None
            else _condition(etag, MatchConditions.IfNotModified)
        )
        kind = ContentSettings(content_type="application/json")
        with blob_errors("writing the policy"):
            try:
                written = self._client.upload_blob(data, overwrite=True, content_settings=kind, **condition)
            except (ResourceExistsError, ResourceModifiedError) as error:
                raise Conflict("the policy was changed in between", code="policy_changed") from error
        return str(written["etag"])


def _condition(etag: str, condition: MatchConditions) -> dict[str, Any]:
    return {"etag": etag, "match_condition": condition}
