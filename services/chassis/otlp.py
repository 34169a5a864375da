"""Spans in OTLP's words. The SDK's own encoder costs more than the span itself, so plain ones are written here.

Written means byte by byte (protobuf.dev: encoding). A message for each span, which protobuf would write, costs twice as
much: most of a span is the same as in many others.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache

from opentelemetry.exporter.otlp.proto.common._internal import _encode_attributes, _encode_key_value
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

_PLAIN = (str, int, float)


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """An ExportTraceServiceRequest, the same as the SDK's `encode_spans` for spans of one tracer.

    Raises TypeError or ValueError where a name or a text cannot be written, such as half a surrogate pair.
    """
    resource = encode_spans(spans[:1]).resource_spans[0]
    scope = resource.scope_spans.pop()
    scope.ClearField("spans")
    within = scope.SerializeToString() + b"".join([_field(2, _span(span)) for span in spans])
    return _field(1, resource.SerializeToString() + _field(2, within))


def _span(span: ReadableSpan) -> bytes:
    at, above, status = span.get_span_context(), span.parent, span.status
    assert at is not None
    if span.events or span.dropped_attributes or at.trace_state or status.description:
        return encode_spans([span]).resource_spans[0].scope_spans[0].spans[0].SerializeToString()
    return b"".join(
        (
            _TRACE_ID,
            at.trace_id.to_bytes(16),
            _SPAN_ID,
            at.span_id.to_bytes(8),
            _PARENT_ID + above.span_id.to_bytes(8) if above else b"",
            _name_and_kind(span.name, span.kind),
            _times(_START, span.start_time or 0, _END, span.end_time or 0),
            *[
                _attribute(key, value) if isinstance(value, _PLAIN) else _other(key, value)
                for key, value in (span.attributes or {}).items()
            ],
            *([_link(link) for link in span.links] if span.links else ()),
            _STATUS[status.status_code],
            _REMOTE if above and above.is_remote else _LOCAL,
        )
    )


@lru_cache(4096, typed=True)
def _attribute(key: str, value: AttributeValue) -> bytes:
    """Most are those of an rpc or a statement, and come again and again."""
    return _field(9, _encode_key_value(key, value).SerializeToString())


def _other(key: str, value: AttributeValue) -> bytes:
    """A list; what OTLP has no word for is left out, and the SDK says so in the log."""
    return b"".join(_field(9, each.SerializeToString()) for each in _encode_attributes({key: value}))


@lru_cache(4096)
def _name_and_kind(name: str, kind: SpanKind) -> bytes:
    return trace_pb2.Span(name=name, kind=trace_pb2.Span.SpanKind.Value(f"SPAN_KIND_{kind.name}")).SerializeToString()


def _link(link: Link) -> bytes:
    to = link.context
    facts = [
        _field(4, _encode_key_value(key, value).SerializeToString()) for key, value in (link.attributes or {}).items()
    ]
    ids = _TRACE_ID + to.trace_id.to_bytes(16) + _SPAN_ID + to.span_id.to_bytes(8)
    return _field(13, b"".join((ids, *facts, _TO_REMOTE if to.is_remote else _TO_LOCAL)))


def _field(number: int, body: bytes) -> bytes:
    """A field that has a length; its number is below 16, so that it has one byte."""
    return bytes((number << 3 | 2,)) + _varint(len(body)) + body


def _varint(number: int) -> bytes:
    if number < 128:
        return bytes((number,))
    if number < 16384:
        return bytes((number & 127 | 128, number >> 7))
    return bytes((number & 127 | 128,)) + _varint(number >> 7)


# Of trace_pb2.Span, and its links: tags, and whole fields of which there are few.
_TRACE_ID, _SPAN_ID, _PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"
_START, _END = 7 << 3 | 1, 8 << 3 | 1
_times = struct.Struct("<BQBQ").pack
_STATUS = {
    code: trace_pb2.Span(
        status=trace_pb2.Status(code=trace_pb2.Status.StatusCode.Value(f"STATUS_CODE_{code.name}"))
    ).SerializeToString()
    for code in StatusCode
}
_HERE = trace_pb2.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_FAR = _HERE | trace_pb2.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_LOCAL, _REMOTE = (trace_pb2.Span(flags=flags).SerializeToString() for flags in (_HERE, _FAR))
_TO_LOCAL, _TO_REMOTE = (trace_pb2.Span.Link(flags=flags).SerializeToString() for flags in (_HERE, _FAR))
