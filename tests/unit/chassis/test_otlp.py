"""The encoder of spans says what the SDK's says."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, TracerProvider
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import AttributeValue

from services.chassis.otlp import encode

LOCAL = SpanContext(1 << 100, 1 << 50, is_remote=False, trace_flags=TraceFlags(1))
REMOTE = SpanContext(3, 7, is_remote=True, trace_flags=TraceFlags(1))
STATEFUL = SpanContext(3, 7, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("a", "b")]))
TRACER = TracerProvider(
    resource=Resource({"service.name": "fruit"}), span_limits=SpanLimits(max_span_attributes=5), shutdown_on_exit=False
).get_tracer("fruit")


def made(
    above: SpanContext | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    then: Callable[[Span], Any] = lambda _: None,
    **options: Any,
) -> ReadableSpan:
    under = trace.set_span_in_context(NonRecordingSpan(above)) if above else None
    span = TRACER.start_span("a span", under, kind, **options)
    assert isinstance(span, Span)
    then(span)
    span.end()
    return span


def bare(attributes: Mapping[str, object]) -> ReadableSpan:
    """With attributes as they are: the SDK's tracer makes tuples of lists."""
    resource, scope = made().resource, made().instrumentation_scope
    return ReadableSpan(
        "a span",
        LOCAL,
        None,
        resource,
        cast("Mapping[str, AttributeValue]", attributes),
        start_time=1,
        end_time=2,
        instrumentation_scope=scope,
    )


@pytest.mark.parametrize(
    "span",
    [
        made(),
        *(made(REMOTE, kind) for kind in SpanKind),
        made(LOCAL, attributes={"rpc.system": "grpc", "code": 0, "share": 0.5, "yes": True}),
        made(LOCAL, attributes={"yes": 1, "names": ["a", "b"]}),
        made(LOCAL, attributes={str(n): n for n in range(6)}),
        made(STATEFUL),
        made(then=lambda span: span.set_status(StatusCode.ERROR)),
        made(then=lambda span: span.set_status(StatusCode.ERROR, "why")),
        made(then=lambda span: span.set_status(StatusCode.OK)),
        made(then=lambda span: span.add_event("stumbled", {"over": "a mug"})),
        made(then=lambda span: span.record_exception(KeyError("mug"))),
        bare({"names": ["a", "b"], "odd": object()}),
        made(links=[Link(REMOTE, {"as": "cause"})]),
        made(links=[Link(REMOTE), Link(LOCAL)]),
        made(links=[Link(STATEFUL)]),
    ],
)
def test_each_span_is_encoded_as_the_sdk_does_it(span: ReadableSpan) -> None:
    spans = [made(), span, span]

    assert ExportTraceServiceRequest.FromString(encode(spans)) == encode_spans(spans)
