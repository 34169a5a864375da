"""OpenTelemetry, cheap for what nobody samples: such calls get no span, but their ids go on in logs, rows and headers.

Whether a trace is recorded is decided once, at its root (the edge, or here for what does not come from it). Spans
are made by ourselves: the libraries that instrument gRPC and asyncpg, and the SDK's spans, cost a multiple (ADR 0009).
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from grpc import StatusCode
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, TraceFlags
from opentelemetry.util.types import AttributeValue

from services.chassis.settings import Settings

if TYPE_CHECKING:
    from services.chassis.spans import Recorder

__all__ = [
    "Part",
    "Span",
    "SpanKind",
    "Tracing",
    "at",
    "begun",
    "current_traceparent",
    "ended",
    "failed",
    "serving",
    "span",
    "together",
    "trace_id",
    "tracing",
]

HEADER = "traceparent"
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED, _UNSAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)
_NOTHING = otel.Context()
_ORDER, _REASON = "order", "reason"
_ERROR = Status(trace.StatusCode.ERROR)


class Tracing:
    """What this process does with spans. One per process; `None` endpoint: nothing is recorded, ids still flow."""

    def __init__(self) -> None:
        self.sampling_percent = 100.0
        """Of traces that begin here; may change at any time."""
        self.recorder: Recorder | None = None
        self.order, self.reason = _ORDER, _REASON
        """Names of the attributes that no convention knows: what a span is about, and why it was refused."""

    def export(self, settings: Settings, domain: str) -> None:
        """From now on sampled spans go to the OTLP endpoint, if there is one; attributes of ours are `domain.name`."""
        self.order, self.reason = f"{domain}.order", f"{domain}.reason"
        if settings.otlp_endpoint:
            from services.chassis.spans import Recorder

            self.recorder = Recorder(settings, self.order)

    def close(self) -> None:
        """Sends what is left; blocks for 2 s at most. All is as before `export`."""
        self.order, self.reason = _ORDER, _REASON
        if self.recorder is not None:
            self.recorder.close()
            self.recorder = None

    def begins(self) -> bool:
        """Whether a trace that begins here shall be recorded."""
        return self.recorder is not None and random.random() * 100 < self.sampling_percent  # noqa: S311


tracing = Tracing()


def serving(method: str, traceparent: str | None) -> Span | None:
    """In the task of a call that is served: from now on we are in its trace, or in a new one.

    Returns its span, to be `ended`; None when the trace is not recorded.
    """
    above = _parsed(traceparent) if traceparent else None
    recorded = above.trace_flags.sampled if above else tracing.begins()
    if tracing.recorder is None or not recorded:
        otel.attach(_at(NonRecordingSpan(above or _new_ids())))
        return None
    started = tracing.recorder.begin(method[1:], above, SpanKind.SERVER, rpc_attributes(method))
    otel.attach(_at(started))
    return started


def begun(name: str, attributes: Mapping[str, AttributeValue]) -> Span | None:
    """A span for what is asked of others, to be ended. None unless we are in a span that is recorded."""
    above = trace.get_current_span()
    if tracing.recorder is None or not above.is_recording():
        return None
    return tracing.recorder.begin(name, above.get_span_context(), SpanKind.CLIENT, attributes)


def recorded() -> bool:
    """Whether we are in a span that is recorded."""
    return trace.get_current_span().is_recording()


def ended(span: Span, code: StatusCode, reason: str, *, error: bool) -> None:
    """Ends the span of an rpc. `reason` says why it was refused; `error`, that it failed."""
    span.set_attribute("rpc.response.status_code", code.name)
    if reason:
        span.set_attribute(tracing.reason, reason)
    if error:
        failed(span, code.name)
    span.end()


def failed(span: Span, error_type: str) -> None:
    """The span is one of something that went wrong. Never its words: they may quote what nobody shall read."""
    span.set_attribute("error.type", error_type)
    span.set_status(_ERROR)


@cache
def rpc_attributes(method: str) -> Mapping[str, AttributeValue]:
    """Of `/package.Service/Method`."""
    return {"rpc.system.name": "grpc", "rpc.method": method[1:]}


def current_traceparent() -> str | None:
    """What to hand on, in a header or a row: W3C trace context of the span that we are in."""
    return traceparent_of(trace.get_current_span())


def traceparent_of(span: Span) -> str | None:
    """W3C trace context; None for a span without ids."""
    at = span.get_span_context()
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
    one = _begun(name, kind, parent, attributes or {})
    token = otel.attach(_at(one))
    try:
        yield one
    except Exception as error:
        failed(one, type(error).__qualname__)
        raise
    finally:
        otel.detach(token)
        one.end()


@dataclass(frozen=True, slots=True)
class Part:
    """One of several things that are done as one, such as a message of a batch."""

    name: str
    traceparent: str | None
    """Of what its span belongs under."""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict[str, AttributeValue])


@contextmanager
def together(kind: SpanKind, parts: Sequence[Part]) -> Iterator[Sequence[Span]]:
    """One thing done for several: a span for each part, in the trace of the part.

    What is done inside is beneath the first that is recorded, and the others link to that one.
    """
    spans = [_begun(part.name, kind, part.traceparent, part.attributes) for part in parts]
    shown = next((each for each in spans if each.is_recording()), spans[0])
    for each in spans:
        if each is not shown:  # for one that is not recorded it does nothing
            each.add_link(shown.get_span_context())
    token = otel.attach(_at(shown))
    try:
        yield spans
    except Exception as error:
        for each in spans:
            failed(each, type(error).__qualname__)
        raise
    finally:
        otel.detach(token)
        for each in spans:
            each.end()


@contextmanager
def at(traceparent: str | None) -> Iterator[None]:
    """Log lines belong to the span that `traceparent` names."""
    there = _parsed(traceparent)
    token = otel.attach(_at(NonRecordingSpan(there))) if there else None
    try:
        yield
    finally:
        if token:
            otel.detach(token)


def _begun(name: str, kind: SpanKind, parent: str | None, attributes: Mapping[str, AttributeValue]) -> Span:
    above = _parsed(parent) or trace.get_current_span().get_span_context()
    recorded = above.trace_flags.sampled if above.is_valid else tracing.begins()
    if tracing.recorder is None or not recorded:
        return NonRecordingSpan(above if above.is_valid else _new_ids())
    return tracing.recorder.begin(name, above if above.is_valid else None, kind, attributes)


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


def _at(span: Span) -> otel.Context:
    return trace.set_span_in_context(span, _NOTHING)
