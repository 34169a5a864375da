"""Spans in OTLP's words. The SDK's own encoder costs more than the span itself, so the plain ones are put here."""

from collections.abc import Sequence
from functools import lru_cache

from opentelemetry.exporter.otlp.proto.common._internal import _encode_key_value
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

_attribute = lru_cache(1024, typed=True)(_encode_key_value)
"""Most attributes are those of an rpc or a statement, and come again and again."""
_KIND = {kind: trace_pb2.Span.SpanKind.Value(f"SPAN_KIND_{kind.name}") for kind in SpanKind}
_STATUS = {
    code: trace_pb2.Status(code=trace_pb2.Status.StatusCode.Value(f"STATUS_CODE_{code.name}")) for code in StatusCode
}
_LOCAL = trace_pb2.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE = _LOCAL | trace_pb2.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


class Exporter(OTLPSpanExporter):
    """The SDK's, with the encoding from here."""

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        return encode(data)


def encode(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """The same as the SDK's `encode_spans` for spans of one tracer."""
    request = encode_spans(spans[:1])
    encoded = request.resource_spans[0].scope_spans[0].spans
    for span in spans[1:]:
        at, above, status = span.get_span_context(), span.parent, span.status
        assert at is not None
        if span.events or span.links or span.dropped_attributes or at.trace_state or status.description:
            encoded.extend(encode_spans([span]).resource_spans[0].scope_spans[0].spans)
            continue
        encoded.add(
            trace_id=at.trace_id.to_bytes(16),
            span_id=at.span_id.to_bytes(8),
            parent_span_id=above.span_id.to_bytes(8) if above else b"",
            name=span.name,
            kind=_KIND[span.kind],
            start_time_unix_nano=span.start_time,
            end_time_unix_nano=span.end_time,
            attributes=[_attribute(key, value) for key, value in (span.attributes or {}).items()],
            status=_STATUS[status.status_code],
            flags=_REMOTE if above and above.is_remote else _LOCAL,
        )
    return request
