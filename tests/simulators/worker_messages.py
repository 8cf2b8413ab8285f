"""The messages between the Functions host and its Python worker, as plain attributes: no protobuf, no gRPC.

Microsoft's worker library (``azure-functions-runtime``) is given the module of its messages from outside;
this stands in for it, so that the library can be driven in this process.
"""

from __future__ import annotations

import types
from typing import Any


class Message:
    """Any message: what it was made with, as attributes."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class TypedData(Message):
    """A value of one of several types."""

    FIELDS = ("string", "json", "bytes", "http", "int", "double", "collection_bytes", "collection_string")

    def WhichOneof(self, _group: str) -> str | None:  # noqa: N802 - protobuf's name
        return next((field for field in self.FIELDS if field in self.__dict__), None)


class ParameterBinding(Message):
    """A named value."""

    def WhichOneof(self, _group: str) -> str | None:  # noqa: N802 - protobuf's name
        return "data" if "data" in self.__dict__ else None


def _kind(name: str, **constants: Any) -> type[Message]:
    return type(name, (Message,), constants)


SUCCESS = 1
PROTOS = types.SimpleNamespace(
    TypedData=TypedData,
    ParameterBinding=ParameterBinding,
    StatusResult=_kind("StatusResult", Failure=0, Success=SUCCESS, Cancelled=2),
    BindingInfo=_kind("BindingInfo", **{"in": 0, "out": 1, "inout": 2, "undefined": None}),
    RpcHttpCookie=_kind(
        "RpcHttpCookie",
        SameSite=types.SimpleNamespace(**{"None": 0, "Lax": 1, "Strict": 2, "ExplicitNone": 3}),
    ),
    **{
        name: _kind(name)
        for name in (
            "WorkerInitResponse",
            "WorkerMetadata",
            "FunctionMetadataResponse",
            "FunctionLoadResponse",
            "InvocationResponse",
            "RpcFunctionMetadata",
            "RpcRetryOptions",
            "RpcException",
            "RpcHttp",
            "NullableString",
            "NullableBool",
            "NullableDouble",
            "NullableTimestamp",
        )
    },
)


def request(**fields: Any) -> types.SimpleNamespace:
    """Return a request in the envelope that the library expects."""
    return types.SimpleNamespace(
        request=types.SimpleNamespace(**fields), properties={"host": "127.0.0.1", "protos": PROTOS}
    )
