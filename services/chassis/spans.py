"""What is recorded of a trace. The SDK's own spans would take eight times the CPU (ADR 0009).

Imported when there is somewhere to send spans to: the SDK would be a tenth of a process's memory and a quarter of the
time that it takes to start.
"""

import random
from collections.abc import Callable, Mapping
from time import time_ns
from typing import override

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from services.chassis import logs
from services.chassis.otlp import encode
from services.chassis.sending import Sender
from services.chassis.settings import Settings

_SCOPE = InstrumentationScope("services.chassis")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Recorded(ReadableSpan, Span):
    """A span that one task begins, fills and ends, so it needs no lock; its attributes are few, so it counts none."""

    def __init__(
        self,
        name: str,
        above: SpanContext | None,
        kind: SpanKind,
        attributes: Mapping[str, AttributeValue],
        resource: Resource,
        ended: Callable[["Recorded"], None],
    ) -> None:
        """Under `above`, else the first of a new trace. Begins now."""
        trace_id = above.trace_id if above else random.getrandbits(128) or 1
        at = SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False, trace_flags=_SAMPLED)
        self._facts: dict[str, AttributeValue] = dict(attributes)
        super().__init__(
            name, at, above, resource, self._facts, kind=kind, start_time=time_ns(), instrumentation_scope=_SCOPE
        )
        self._at, self._ended = at, ended

    @override
    def get_span_context(self) -> SpanContext:
        return self._at

    @override
    def is_recording(self) -> bool:
        return self._end_time is None

    @override
    def end(self, end_time: int | None = None) -> None:
        if self._end_time is None:
            self._end_time = end_time or time_ns()
            self._ended(self)

    @override
    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self._facts[key] = value

    @override
    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self._facts.update(attributes)

    @override
    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Without `description`: OpenTelemetry's `use_span` writes the words of an exception there."""
        self._status = Status(status.status_code if isinstance(status, Status) else status)

    @override
    def update_name(self, name: str) -> None:
        self._name = name

    @override
    def add_event(
        self, name: str, attributes: Mapping[str, AttributeValue] | None = None, timestamp: int | None = None
    ) -> None:
        self._events = (*self._events, Event(name, attributes, timestamp))

    @override
    def add_link(self, context: SpanContext, attributes: Mapping[str, AttributeValue] | None = None) -> None:
        self._links = (*self._links, Link(context, attributes))

    def set_default(self, key: str, value: AttributeValue) -> None:
        """Unless it has such an attribute."""
        self._facts.setdefault(key, value)

    @override
    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, AttributeValue] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Its type. Never its words: they may quote what nobody shall read."""
        kind = {"exception.type": type(exception).__qualname__}
        self.add_event("exception", {**kind, **(attributes or {})}, timestamp)


class Recorder:
    """Sends spans that have ended to the OTLP endpoint, in batches, from a thread of its own."""

    def __init__(self, settings: Settings, order: str) -> None:
        """`order` is the attribute that says what a span is about."""
        self._order = order
        self._resource = Resource.create(
            {
                "service.name": settings.service,
                "service.instance.id": settings.instance,
                "service.version": settings.version,
            }
        )
        self._sender = Sender(settings.otlp_endpoint, encode)

    def begin(
        self, name: str, above: SpanContext | None, kind: SpanKind, attributes: Mapping[str, AttributeValue]
    ) -> Recorded:
        """Under `above`, else the first of a new trace."""
        return Recorded(name, above, kind, attributes, self._resource, self._ended)

    def _ended(self, span: Recorded) -> None:
        if order := logs.order():
            span.set_default(self._order, order)
        self._sender.put(span)

    def flush(self) -> None:
        """Sends what there is; blocks."""
        self._sender.flush()

    def close(self) -> None:
        """Sends what is left; blocks for 2 s at most."""
        self._sender.close()
