"""A real OTLP receiver for traces and log records, in the process of the tests."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from services.log_files import Line
from services.telemetry.otlp import lines


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it came in, with the service that made it. Ids are lower-case hex; no parent is an empty string."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str]
    status: str = "UNSET"
    events: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    """Trace and span id of each."""
    instance: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    """Since 1970."""


@dataclass(slots=True)
class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    endpoint: str = ""
    _spans: list[Span] = field(default_factory=list[Span])
    _lines: list[Line] = field(default_factory=list[Line])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def Export(  # noqa: N802, the name of the rpc
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        del context
        with self._lock:
            for resource in request.resource_spans:
                about = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self._spans += [_span(about, span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def keep(self, request: logs_service_pb2.ExportLogsServiceRequest) -> None:
        """Log records that came."""
        with self._lock:
            self._lines += lines(request)

    def said(self, message: str) -> list[Line]:
        """Lines with this message, as our store reads them."""
        with self._lock:
            return [line for line in self._lines if line.message == message]

    def trace(self, trace_id: str) -> list[Span]:
        with self._lock:
            return [span for span in self._spans if span.trace_id == trace_id]

    def with_attribute(self, value: str) -> list[Span]:
        """Spans that carry this value in any attribute."""
        with self._lock:
            return [span for span in self._spans if value in span.attributes.values()]


class _Lines(logs_service_pb2_grpc.LogsServiceServicer):
    """Both services name their rpc Export."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(  # noqa: N802, the name of the rpc
        self, request: logs_service_pb2.ExportLogsServiceRequest, context: grpc.ServicerContext
    ) -> logs_service_pb2.ExportLogsServiceResponse:
        del context
        self._receiver.keep(request)
        return logs_service_pb2.ExportLogsServiceResponse()


def _span(about: Mapping[str, str], span: trace_pb2.Span) -> Span:
    attributes = {
        each.key: str(getattr(each.value, each.value.WhichOneof("value") or "string_value")) for each in span.attributes
    }
    kind = trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
    status = trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_")
    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
    events = tuple(event.name for event in span.events)
    links = tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links)
    service, instance = about.get("service.name", ""), about.get("service.instance.id", "")
    times = span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9
    return Span(service, span.name, kind, *ids, attributes, status, events, links, instance, *times)


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A receiver that listens on `endpoint`, on any port or on this one."""
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]  # published without
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(_Lines(receiver), server)  # type: ignore[no-untyped-call]  # the same
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()
