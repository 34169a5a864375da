"""The contract as tests read it: every rpc of the shop, out of gen/descriptors.binpb, by no code that is under test."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module

import grpc
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.message import Message
from mesh.v1 import auth_pb2

from services.files import resource

type Metadata = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Rpc:
    """One rpc: its messages, its route over HTTP, and whom its rule lets in."""

    service: str
    """Name in the mesh: `product` for `shop.product.v1.ProductService`."""
    path: str
    """`/shop.product.v1.ProductService/GetProduct`."""
    request: type[Message]
    response: type[Message]
    streaming: bool
    http: http_pb2.HttpRule
    public: bool
    roles: frozenset[str]
    clients: frozenset[str]

    @property
    def method(self) -> str:
        return self.path.rpartition("/")[2]

    def takes(self, field: str) -> bool:
        return field in self.request.DESCRIPTOR.fields_by_name

    def under(self, *, public: bool = False, roles: Iterable[str] = (), clients: Iterable[str] = ()) -> "Rpc":
        """The same rpc under another rule."""
        return replace(self, public=public, roles=frozenset(roles), clients=frozenset(clients))

    async def call(self, channel: grpc.aio.Channel, request: bytes, metadata: Metadata, timeout_s: float) -> bytes:
        """The answer; of a stream the first. Raises grpc.aio.AioRpcError."""
        if not self.streaming:
            unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(self.path)
            return await unary(request, metadata=tuple(metadata), timeout=timeout_s)
        stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(self.path)
        return await anext(aiter(stream(request, metadata=tuple(metadata), timeout=timeout_s)))


def rpcs() -> list[Rpc]:
    """All of the shop."""
    files = descriptor_pb2.FileDescriptorSet.FromString(resource("gen/descriptors.binpb").read_bytes()).file
    return [
        _rpc(file, service.name, method)
        for file in files
        if file.package.startswith("shop.")
        for service in file.service
        for method in service.method
    ]


def _rpc(file: descriptor_pb2.FileDescriptorProto, service: str, method: descriptor_pb2.MethodDescriptorProto) -> Rpc:
    messages = import_module(f"{file.name.removesuffix('.proto').replace('/', '.')}_pb2")
    rule = method.options.Extensions[auth_pb2.rule]
    return Rpc(
        service=file.package.split(".")[1],
        path=f"/{file.package}.{service}/{method.name}",
        request=getattr(messages, method.input_type.rpartition(".")[2]),
        response=getattr(messages, method.output_type.rpartition(".")[2]),
        streaming=method.server_streaming,
        http=method.options.Extensions[annotations_pb2.http],  # type: ignore[index]  # published without types
        public=rule.public,
        roles=frozenset(rule.roles),
        clients=frozenset(rule.clients),
    )
