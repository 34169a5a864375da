"""Calls without stubs, typed."""

from collections.abc import AsyncIterator, Mapping, Sequence

import grpc
from grpc_health.v1 import health_pb2
from shop.order.v1 import order_pb2

type Metadata = Sequence[tuple[str, str]]
type Call = grpc.aio.UnaryUnaryCall[bytes, bytes]
type Stream = grpc.aio.UnaryStreamCall[bytes, bytes]

WATCH = "/shop.order.v1.OrderService/WatchOrder"
ORDER = "orders/00000000-0000-4000-8000-00000000000a"
WATCH_REQUEST = order_pb2.WatchOrderRequest(name=ORDER).SerializeToString()


def call(
    channel: grpc.aio.Channel, path: str, request: bytes = b"", metadata: Metadata = (), timeout: float | None = None
) -> Call:
    """Any unary rpc, in bytes."""
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    return method(request, metadata=tuple(metadata), timeout=timeout)


def converse(
    channel: grpc.aio.Channel, path: str, requests: AsyncIterator[bytes]
) -> grpc.aio.StreamStreamCall[bytes, bytes]:
    """Any streaming rpc, in bytes."""
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
    return method(requests)


def watch(channel: grpc.aio.Channel, sent: Mapping[str, str], **asked: str) -> Stream:
    """A stream of versions of ORDER; what is asked of tests.support.echo for it, without its `x-`."""
    method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(WATCH)
    return method(WATCH_REQUEST, metadata=(*sent.items(), *((f"x-{name}", text) for name, text in asked.items())))


async def health(channel: grpc.aio.Channel, service: str) -> int:
    """The status of a service. Raises grpc.aio.AioRpcError."""
    request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    answer = await call(channel, "/grpc.health.v1.Health/Check", request)
    return health_pb2.HealthCheckResponse.FromString(answer).status


class HealthWatch:
    """A stream of statuses."""

    def __init__(self, channel: grpc.aio.Channel, service: str) -> None:
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream("/grpc.health.v1.Health/Watch")
        self._call = method(health_pb2.HealthCheckRequest(service=service).SerializeToString())
        self._answers = aiter(self._call)

    async def next(self) -> int:
        return health_pb2.HealthCheckResponse.FromString(await anext(self._answers)).status

    def end(self) -> None:
        self._call.cancel()
