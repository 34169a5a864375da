"""What is asked of the store, and what it answers with. Times are nanoseconds since 1970."""

from collections.abc import Mapping
from dataclasses import dataclass, field

type Value = str | bool | int | float | list["Value"] | dict[str, "Value"] | None
"""A value of OTLP. Bytes are given as base64."""


MOST_SPANS = 10_000
"""Of a trace, and of all traces of an answer together: a loop that forgot to end its trace must not take the memory."""


class TooLong(Exception):
    """A question that was given up; the text says what to ask instead."""


@dataclass(frozen=True, slots=True)
class SpanEvent:
    name: str
    time_ns: int
    attributes: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class SpanLink:
    trace_id: str
    span_id: str
    attributes: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Span:
    trace_id: str
    """32 lower-case hexadecimal digits."""
    span_id: str
    """16 of them."""
    parent_id: str
    """Empty: the first of its trace."""
    service: str
    instance: str
    name: str
    kind: str
    """INTERNAL, SERVER, CLIENT, PRODUCER or CONSUMER."""
    start_ns: int
    end_ns: int
    status: str
    """UNSET, OK or ERROR."""
    status_message: str
    attributes: Mapping[str, Value]
    events: tuple[SpanEvent, ...]
    links: tuple[SpanLink, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceQuery:
    """Traces with a span to which all of this applies; what is empty applies to every span."""

    service: str = ""
    span_name: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    """An empty value: the key is there."""
    order: str = ""
    """Any span of the trace may be the one that names it."""
    min_duration_ns: int = 0
    max_duration_ns: int | None = None
    since_ns: int = 0
    until_ns: int | None = None
    limit: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LineQuery:
    """Log lines to which all of this applies; what is empty applies to every line."""

    service: str = ""
    level: str = ""
    """At least that severe."""
    text: str = ""
    """Words, each of which the line has at the beginning of one of its own."""
    trace_id: str = ""
    order: str = ""
    since_ns: int = 0
    until_ns: int | None = None
    after_id: int = 0
    """To follow: lines that arrived later, the oldest `limit` of them. 0: the newest `limit`."""
    limit: int = 200


@dataclass(frozen=True, slots=True)
class Dependency:
    """How often one service was called by another, and how often that failed."""

    parent: str
    child: str
    calls: int
    errors: int


@dataclass(frozen=True, slots=True)
class Status:
    """What the store keeps, and since it started what it did not keep."""

    spans: int
    lines: int
    bytes: int
    """On the disk."""
    most_bytes: int
    oldest_ns: int | None
    """When the oldest part of it was begun; None: it is empty."""
    waiting_bytes: int
    """Received and not yet written."""
    dropped_spans: Mapping[str, int]
    """By reason."""
    dropped_lines: Mapping[str, int]
    refused: Mapping[str, int]
    """Requests, by reason."""

    @property
    def dropped(self) -> int:
        return sum(self.dropped_spans.values()) + sum(self.dropped_lines.values())
