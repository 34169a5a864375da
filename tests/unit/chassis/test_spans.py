"""A span of ours says what the SDK's would."""

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from services.chassis.spans import Recorded

RESOURCE = Resource({"service.name": "fruit"})
TRACER = TracerProvider(resource=RESOURCE, shutdown_on_exit=False).get_tracer("services.chassis")
ABOVE = SpanContext(1 << 100, 1 << 50, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
FACTS: dict[str, AttributeValue] = {"rpc.system": "grpc", "tries": 2, "share": 0.5, "again": True}


def told(span: ReadableSpan) -> trace_pb2.Span:
    """All but what is each span's own."""
    said = encode_spans([span]).resource_spans[0].scope_spans[0]
    assert said.scope.name == "services.chassis"
    (encoded,) = said.spans
    assert encoded.span_id
    assert 0 < encoded.start_time_unix_nano <= encoded.end_time_unix_nano
    for field in ("span_id", "start_time_unix_nano", "end_time_unix_nano"):
        encoded.ClearField(field)
    encoded.attributes.sort(key=lambda fact: fact.key)
    for event in encoded.events:
        event.ClearField("time_unix_nano")
        for fact in list(event.attributes):
            if fact.key == "exception.escaped":  # deprecated by the conventions
                event.attributes.remove(fact)
    return encoded


def theirs(kind: SpanKind, then: Callable[[Span], Any]) -> trace_pb2.Span:
    under = trace.set_span_in_context(NonRecordingSpan(ABOVE))
    span = TRACER.start_span("a span", under, kind, FACTS)
    assert isinstance(span, ReadableSpan)
    then(span)
    span.end()
    return told(span)


def ours(kind: SpanKind, then: Callable[[Span], Any]) -> trace_pb2.Span:
    ended = list[ReadableSpan]()
    span = Recorded("a span", ABOVE, kind, FACTS, RESOURCE, ended.append)
    then(span)
    span.end()
    assert ended == [span]
    return told(span)


@pytest.mark.parametrize("kind", SpanKind)
@pytest.mark.parametrize(
    "then",
    [
        lambda _: None,
        lambda span: span.set_attribute("rpc.grpc.status_code", 0),
        lambda span: span.set_attributes({"tries": 3, "name": "mug"}),
        lambda span: span.set_status(Status(StatusCode.ERROR)),
        lambda span: span.update_name("another"),
        lambda span: span.add_link(ABOVE),
        lambda span: span.add_link(ABOVE, {"as": "cause"}),
        lambda span: span.add_event("stumbled", {"over": "a mug"}),
    ],
)
def test_it_is_exported_as_the_sdks_own(kind: SpanKind, then: Callable[[Span], Any]) -> None:
    assert ours(kind, then) == theirs(kind, then)


def test_of_an_exception_it_keeps_the_type_and_never_the_words() -> None:
    def stumble(span: Span) -> None:
        with pytest.raises(TimeoutError), trace.use_span(span):
            raise TimeoutError("the card 4711 is too late")

    kept = ours(SpanKind.SERVER, stumble)

    assert kept.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    (event,) = kept.events
    assert event.name == "exception"
    assert {fact.key: fact.value.string_value for fact in event.attributes} == {"exception.type": "TimeoutError"}
    assert b"4711" not in kept.SerializeToString()


def test_the_first_of_a_trace_has_ids_of_its_own_and_is_recorded() -> None:
    first, second = (Recorded("a span", None, SpanKind.SERVER, {}, RESOURCE, lambda _: None) for _ in range(2))

    assert first.get_span_context().is_valid
    assert first.get_span_context().trace_flags.sampled
    assert first.get_span_context().trace_id != second.get_span_context().trace_id
    assert first.parent is None


def test_it_ends_once() -> None:
    ended = list[ReadableSpan]()
    span = Recorded("a span", ABOVE, SpanKind.CLIENT, {}, RESOURCE, ended.append)
    assert span.is_recording()

    span.end(7)
    span.end(8)

    assert not span.is_recording()
    assert (ended, span.end_time) == ([span], 7)
