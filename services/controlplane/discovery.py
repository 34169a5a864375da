"""The two messages of the aggregated discovery service, as far as they are used.

Encoded resources are put into responses as they are. Requests name hundreds of resources and come with every answer of
every Envoy: protobuf's own parser takes a hundredth of the time that envoy-data-plane's takes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from services.controlplane.resources.stencils import field
from services.controlplane.snapshot import Kind

_Field = descriptor_pb2.FieldDescriptorProto


@dataclass(frozen=True, slots=True)
class Request:
    """What Envoy asks for, and what it says of the response with this nonce."""

    type_url: str
    names: frozenset[str] = frozenset()
    nonce: str = ""
    version: str = ""
    """What it has."""
    error: str | None = None
    """Why it refuses the response."""
    node: str = ""
    """In the first request of a stream."""

    @classmethod
    def parse(cls, encoded: bytes) -> "Request":
        """Raises google.protobuf.message.DecodeError."""
        message: Any = _request_type().FromString(encoded)
        return cls(
            message.type_url,
            frozenset(message.resource_names),
            message.response_nonce,
            message.version_info,
            message.error_detail.message if message.HasField("error_detail") else None,
            message.node.id,
        )


def response(kind: Kind, bodies: Iterable[bytes], version: str, nonce: str) -> bytes:
    """An encoded DiscoveryResponse."""
    type_url = kind.value.encode()
    resources = (field(2, field(1, type_url) + field(2, body)) for body in bodies)
    return b"".join((field(1, version.encode()), *resources, field(4, type_url), field(5, nonce.encode())))


def parts_of(messages: Mapping[str, Mapping[str, tuple[int, str]]]) -> Mapping[str, type[Message]]:
    """Messages of others with those fields alone that somebody reads: number and kind by name, by name of the message.

    A kind is `string`, `bytes`, `int32` or one of the messages; `repeated` may stand before it.
    """
    file = descriptor_pb2.FileDescriptorProto(name="parts.proto", syntax="proto3")
    for message, fields in messages.items():
        made = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            scalar = _SCALARS.get(of := kind.removeprefix("repeated "))
            made.field.add(
                name=name,
                number=number,
                label=_Field.LABEL_OPTIONAL if of == kind else _Field.LABEL_REPEATED,
                type=scalar or _Field.TYPE_MESSAGE,
                type_name=None if scalar else f".{of}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in messages}


_SCALARS = {"string": _Field.TYPE_STRING, "bytes": _Field.TYPE_BYTES, "int32": _Field.TYPE_INT32}


@cache
def _request_type() -> type[Message]:
    """envoy.service.discovery.v3.DiscoveryRequest."""
    return parts_of(
        {
            "Node": {"id": (1, "string")},
            "Status": {"message": (2, "string")},
            "Request": {
                "version_info": (1, "string"),
                "node": (2, "Node"),
                "resource_names": (3, "repeated string"),
                "type_url": (4, "string"),
                "response_nonce": (5, "string"),
                "error_detail": (6, "Status"),
            },
        }
    )["Request"]
