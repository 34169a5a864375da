"""OpenTelemetry, cheap for what nobody samples: such calls get no span, but their ids go on in logs, rows and headers.

Whether a trace is recorded is decided once, at its root (the edge, or here for what does not come from it); the
instrumentation of gRPC is asked only for calls whose `traceparent` says so, that of asyncpg is suppressed elsewhere.
"""

import contextvars
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags
from opentelemetry.util.types import AttributeValue

from services.chassis.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["SpanKind", "Tracing", "adopt", "current_traceparent", "span", "suppress_instrumentation", "trace_id"]

HEADER = "traceparent"
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED, _UNSAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)


class Tracing:
    """What this process does with spans. One per process; `None` endpoint: nothing is recorded, ids still flow.

    SDK, exporter and instrumentation are imported when there is somewhere to send spans to: they would be a tenth of
    a process's memory and a quarter of the time that it takes to start.
    """

    def __init__(self) -> None:
        self.sampling_percent = 100.0
        """Of traces that begin here; may change at any time."""
        self.provider: TracerProvider | None = None

    def export(self, settings: Settings) -> None:
        """From now on sampled spans go to the OTLP endpoint, if there is one."""
        if not settings.otlp_endpoint:
            return
        from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

        from services.chassis.otlp import Exporter

        resource = Resource.create(
            {
                "service.name": settings.service,
                "service.instance.id": settings.instance,
                "service.version": settings.version,
            }
        )
        # Roots are asked for only when they shall be recorded: `begins`.
        self.provider = TracerProvider(sampler=ParentBased(ALWAYS_ON), resource=resource, shutdown_on_exit=False)
        exporter = Exporter(settings.otlp_endpoint, timeout=2)
        self.provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=16384, schedule_delay_millis=500, export_timeout_millis=2000)
        )
        AsyncPGInstrumentor().instrument(tracer_provider=self.provider)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Sends what is left; blocks for 2 s at most."""
        if self.provider is not None:
            from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor

            AsyncPGInstrumentor().uninstrument()  # type: ignore[no-untyped-call]
            self.provider.shutdown()
            self.provider = None

    def server_interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        """OpenTelemetry's, for calls that are sampled."""
        if self.provider is None:
            return []
        from opentelemetry.instrumentation.grpc import aio_server_interceptor

        return [aio_server_interceptor(self.provider, self._serves)]  # type: ignore[no-untyped-call]

    def client_interceptors(self) -> list[grpc.aio.ClientInterceptor]:
        """OpenTelemetry's, for calls made under a span that is recorded."""
        if self.provider is None:
            return []
        from opentelemetry.instrumentation.grpc import aio_client_interceptors

        return list(aio_client_interceptors(self.provider, lambda _: recorded()))  # type: ignore[no-untyped-call]

    def begins(self) -> bool:
        """Whether a trace that begins here shall be recorded."""
        return self.provider is not None and random.random() * 100 < self.sampling_percent  # noqa: S311

    def _serves(self, details: grpc.HandlerCallDetails) -> bool:
        if details.method.startswith("/grpc."):  # health checks come by the second
            return False
        for key, value in details.invocation_metadata:
            if key == HEADER and (remote := _parsed(value)):
                return remote.trace_flags.sampled
        return self.begins()


tracing = Tracing()


def adopt(traceparent: str | None) -> None:
    """In the task of a call: takes the caller's ids, or new ones, unless a recorded span is there already."""
    if recorded():
        return
    remote = _parsed(traceparent) if traceparent else None
    otel.attach(_silent(remote or _new_ids()))


def current_traceparent() -> str | None:
    """What to hand on, in a header or a row: W3C trace context of the span that we are in."""
    at = trace.get_current_span().get_span_context()
    return f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}" if at.is_valid else None


def trace_id() -> str:
    """The id of the trace that we are in; empty outside of any."""
    at = trace.get_current_span().get_span_context()
    return f"{at.trace_id:032x}" if at.is_valid else ""


@contextmanager
def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: str | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Iterator[Span]:
    """A span under `parent` (a traceparent), else under where we are, else the first of a new trace.

    Not recorded when its trace is not: then it only carries the ids.
    """
    remote = _parsed(parent) if parent else None
    above = remote or trace.get_current_span().get_span_context()
    recorded = above.trace_flags.sampled if above.is_valid else tracing.begins()
    if tracing.provider is None or not recorded:
        token = otel.attach(_silent(above if above.is_valid else _new_ids()))
        try:
            yield trace.get_current_span()
        finally:
            otel.detach(token)
        return
    # From an empty context: whoever runs us may have suppressed the instrumentation.
    under = trace.set_span_in_context(NonRecordingSpan(above), otel.Context()) if above.is_valid else otel.Context()
    tracer = tracing.provider.get_tracer("services.chassis")
    token = otel.attach(under)
    try:
        with tracer.start_as_current_span(name, under, kind, attributes) as started:
            yield started
    finally:
        otel.detach(token)


def recorded() -> bool:
    """Whether we are in a span that is recorded."""
    return trace.get_current_span().is_recording()


def _parsed(traceparent: Any) -> SpanContext | None:  # noqa: ANN401  metadata may be bytes
    if not isinstance(traceparent, str) or not (match := _TRACEPARENT.fullmatch(traceparent)):
        return None
    flags = _SAMPLED if int(match[3], 16) & 1 else _UNSAMPLED
    remote = SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=flags)
    return remote if remote.is_valid else None


def _new_ids() -> SpanContext:
    return SpanContext(
        random.getrandbits(128) or 1,
        random.getrandbits(64) or 1,
        is_remote=False,
        trace_flags=_UNSAMPLED,
    )


def _silent(at: SpanContext) -> otel.Context:
    """A context that carries ids and in which the instrumentation of libraries does nothing."""
    return trace.set_span_in_context(NonRecordingSpan(at), _suppressed())


@cache
def _suppressed() -> otel.Context:
    def suppressed() -> otel.Context:
        with suppress_instrumentation():
            return otel.get_current()

    return contextvars.Context().run(suppressed)
