"""OTLP in: what its signals are, for gRPC here and for HTTP next door (receiver_http)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from services.chassis.settings import CannotStart
from services.telemetry import otlp
from services.telemetry.intake import OVERLOADED, Intake
from services.telemetry.metrics import Numbers

MOST_BYTES = 4 << 20
"""Of one request, decompressed: gRPC's own default."""
MOST_RECORDS = 20_000
"""Log records of one request; a collector sends 8,192. An empty one has two bytes, and takes 300 when it is a line."""
MOST_CALLS = 32
"""At once. An exporter has one on its way."""

OPTIONS = (
    ("grpc.max_receive_message_length", MOST_BYTES),
    # Two stores on one port would each get some of the spans.
    ("grpc.so_reuseport", 0),
    # Envoy asks every 5 s whether it is still there, with no export under way as well. By default gRPC takes that for
    # an attack, and hangs up at the fourth time.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True, slots=True)
class Signal:
    """One of OTLP's services: traces, logs, metrics."""

    service: str
    """The full name of its gRPC service, whose only rpc is Export."""
    path: str
    """Of HTTP."""
    take: Callable[[bytes], Message]
    """An encoded request to its response. Raises DecodeError."""


def traces(intake: Intake) -> Signal:
    """Spans, into the store."""

    def take(data: bytes) -> Message:
        rejected, why = intake.put_spans(ExportTraceServiceRequest.FromString(data), data)
        response = ExportTraceServiceResponse()
        if rejected:
            # Not UNAVAILABLE: the sender would try again, and grow (OTLP, "Partial Success": MUST NOT retry).
            response.partial_success.rejected_spans = rejected
            response.partial_success.error_message = why
        return response

    return Signal("opentelemetry.proto.collector.trace.v1.TraceService", "/v1/traces", take)


def metrics(numbers: Numbers) -> Signal:
    """Numbers, of which the newest are kept."""
    return Signal("opentelemetry.proto.collector.metrics.v1.MetricsService", "/v1/metrics", numbers.take)


def log_records(intake: Intake) -> Signal:
    """Log records, into the store."""

    def take(data: bytes) -> Message:
        request, response = ExportLogsServiceRequest.FromString(data), ExportLogsServiceResponse()
        count = sum(len(scope.log_records) for resource in request.resource_logs for scope in resource.scope_logs)
        why = ""
        if count > MOST_RECORDS:
            why = f"more than {MOST_RECORDS} records in one request"
            intake.refuse("too many")
        elif count and not intake.put_lines(otlp.lines(request)):
            why = OVERLOADED
        if why:
            response.partial_success.rejected_log_records = count
            response.partial_success.error_message = why
        return response

    return Signal("opentelemetry.proto.collector.logs.v1.LogsService", "/v1/logs", take)


def grpc_server(signals: Iterable[Signal], listen: str, refused: Callable[[str], None]) -> grpc.aio.Server:
    """Not yet started. `refused` counts requests that are refused, by reason. Raises CannotStart."""
    server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=MOST_CALLS)
    server.add_generic_rpc_handlers([_handler(signal, refused) for signal in signals])
    health_pb2_grpc.add_HealthServicer_to_server(health_aio.HealthServicer(), server)
    try:
        server.add_insecure_port(listen)
    except RuntimeError as error:
        raise CannotStart(f"SHOPMESH_OTLP_LISTEN={listen} cannot be bound: {error}") from None
    return server


def _handler(signal: Signal, refused: Callable[[str], None]) -> grpc.GenericRpcHandler:
    async def export(data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            return signal.take(data).SerializeToString()
        except DecodeError:
            refused("malformed")
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is no OTLP: it cannot be decoded")

    # Without a deserializer: what gRPC cannot decode it answers with INTERNAL.
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(export)
    return grpc.method_handlers_generic_handler(signal.service, {"Export": handler})
