"""Server reflection, so that grpcurl and `buf curl` need no protos."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import aio


def add_reflection(server: grpc.aio.Server, services: Iterable[str], pool: DescriptorPool | None = None) -> None:
    """Answers for `services`, out of `pool` or of what is imported, as v1 and as v1alpha.

    grpcio-reflection knows v1alpha only and grpcurl asks for v1 first. The two are the same on the wire.
    """
    found_in: Any = _WithMethods(pool or descriptor_pool.Default())  # as much of a pool as reflection asks for
    servicer = aio.ReflectionServicer(services, found_in)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]  # published without
    info = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    v1 = grpc.method_handlers_generic_handler("grpc.reflection.v1.ServerReflection", {"ServerReflectionInfo": info})
    server.add_generic_rpc_handlers((v1,))


class _WithMethods:
    """A pool that finds the file of a method too: protobuf's own does not, and `grpcurl describe` asks for it."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> object:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802
        """Raises KeyError."""
        with suppress(KeyError):
            symbol = self._pool.FindMethodByName(symbol).containing_service.full_name
        return self._pool.FindFileContainingSymbol(symbol)
