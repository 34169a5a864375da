"""A real OTLP receiver for metrics, in the process of the tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

from services.chassis import prometheus
from tests.support.scraped import Scraped


class Receiver(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self) -> None:
        self.endpoint = ""
        self.newest: list[ResourceMetrics] = []
        self.requests = 0
        self.is_frozen = False

    async def Export(  # noqa: N802  the name of the rpc
        self, request: pb.ExportMetricsServiceRequest, context: object
    ) -> pb.ExportMetricsServiceResponse:
        del context
        self.requests += 1
        if self.is_frozen:
            await asyncio.Event().wait()
        self.newest = list(request.resource_metrics)
        return pb.ExportMetricsServiceResponse()

    def scraped(self) -> Scraped:
        """What came last, as Prometheus would read it."""
        return Scraped(prometheus.text(self.newest, told_apart=True))


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver that listens on `endpoint`."""
    receiver, server = Receiver(), grpc.aio.server()
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]  # published without
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield receiver
    finally:
        await server.stop(None)
