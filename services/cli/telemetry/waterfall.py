"""A trace drawn with characters: one line per span, under its parent, beside what was said in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import click

from services.cli.safe_text import safe_line
from services.ids import PACKAGE

WIDEST_SERVICE = 13
LEAST_BAR, MOST_BAR = 12, 48
LEAST_NAME = 24
"""Where there is no room for a bar beside that, there is none."""
_TIMES = 22
"""Two columns: when it began, and how long it took."""
_EIGHTHS = " ▏▎▍▌▋▊▉█"
# Shown with the name of the span, by the service or in the bar already.
_UNSAID = frozenset({"method", "span_id", "trace_id", "path", "listener", "authority"})


@dataclass(frozen=True, slots=True)
class Span:
    """What is drawn of a span. Whoever sends it may write what he likes into it; `of` makes that harmless."""

    span_id: str
    parent_id: str
    service: str
    name: str
    start_ns: int
    end_ns: int
    failed: bool
    attributes: Mapping[str, Any]
    links: Sequence[tuple[str, str]] = ()
    """Trace and span id of each."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Span":
        """From the JSON of the telemetry's pages."""
        return cls(
            span_id=document["span_id"],
            parent_id=document["parent_id"],
            service=safe_line(document["service"]),
            name=safe_line(document["name"]),
            start_ns=document["start_ns"],
            end_ns=document["end_ns"],
            failed=document["status"] == "ERROR",
            attributes=document["attributes"],
            links=[(link["trace_id"], link["span_id"]) for link in document["links"]],
        )

    @property
    def mark(self) -> str:
        """Why it did not go well; a refusal is no error of the one who refuses."""
        reason = next((safe_line(str(value)) for key, value in self.attributes.items() if key.endswith(".reason")), "")
        why = reason or safe_line(str(self.attributes.get("error.type", "")))
        return f"✗ {why}".rstrip() if self.failed else reason


@dataclass(frozen=True, slots=True)
class Line:
    """What is drawn of a line of the log."""

    time_ns: int
    level: str
    service: str
    span_id: str
    text: str

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Line":
        """From the JSON of the telemetry's pages."""
        moment = datetime.fromisoformat(document["time"])
        facts = (f"{key}={value}" for key, value in document["fields"].items() if key not in _UNSAID and value)
        text = " ".join([document["message"], *facts])
        ns = int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
        return cls(ns, document["level"], safe_line(document["service"]), document["span_id"], safe_line(text))


@dataclass(frozen=True, slots=True)
class Trace:
    """One trace with its lines."""

    trace_id: str
    spans: Sequence[Span]
    lines: Sequence[Line] = field(default_factory=tuple)

    @property
    def start_ns(self) -> int:
        return min(span.start_ns for span in self.spans)

    @property
    def orders(self) -> Sequence[str]:
        """Which orders it is about, by name."""
        facts = ((key, value) for span in self.spans for key, value in span.attributes.items())
        return list(dict.fromkeys(safe_line(str(value)) for key, value in facts if key.endswith(".order")))


def drawn(trace: Trace, width: int) -> Iterator[str]:
    """Line by line, none wider than `width` columns, with colours for a terminal."""
    began = trace.start_ns
    whole = max(span.end_ns for span in trace.spans) - began
    services = list(dict.fromkeys(span.service for span in trace.spans))
    failed = sum(span.failed for span in trace.spans)
    yield click.style(f"trace {trace.trace_id}", bold=True)
    yield from _wrapped(
        [
            f"{datetime.fromtimestamp(began / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC",
            _took(whole).strip(),
            f"{len(trace.spans)} spans of {', '.join(services)}",
            *([f"{failed} failed"] if failed else []),
            *trace.orders,
        ],
        width,
    )
    yield ""
    room = _Room.within(width, max(map(len, services)))
    said = _by_span(trace)
    for depth, span in _tree(trace.spans):
        yield room.of_span(depth, span, began, whole)
        for to_trace, _ in span.links:
            if to_trace != trace.trace_id:
                yield room.of_link(depth, to_trace)
        for line in said.get(span.span_id, ()):
            yield room.of_line(depth, line)


@dataclass(frozen=True, slots=True)
class _Room:
    """How many columns each part of a line has."""

    width: int
    service: int
    name: int
    bar: int

    @classmethod
    def within(cls, width: int, widest_service: int) -> "_Room":
        service = min(widest_service, WIDEST_SERVICE)
        left = width - service - _TIMES - 3
        bar = min(MOST_BAR, max(LEAST_BAR, left // 3))
        if left - bar - 1 < LEAST_NAME:
            return cls(width, service, max(left, 8), 0)
        return cls(width, service, left - bar - 1, bar)

    def of_span(self, depth: int, span: Span, began: int, whole: int) -> str:
        name = _cut("  " * min(depth, self.name // 4) + PACKAGE.sub("", span.name), self.name)
        if mark := span.mark:
            name = _cut(name.rstrip(), self.name - len(mark) - 2)
            name = f"{name}  {mark}" if len(name) + len(mark) + 2 <= self.name else _cut(mark, self.name)
        name = name.ljust(self.name)
        bar = f" {_bar(span.start_ns - began, span.end_ns - began, whole, self.bar)}" if self.bar else ""
        times = f"{_took(span.start_ns - began)} {_took(span.end_ns - span.start_ns)}"
        colour = "red" if span.failed else "yellow" if mark else None
        return f"{_cut(span.service, self.service):{self.service}} {click.style(name, fg=colour)}{bar} {times}"

    def of_link(self, depth: int, to_trace: str) -> str:
        said = self._aside(depth, f"→ together with others: shopmesh trace {to_trace}")
        return click.style(said if said.endswith(to_trace) else f"→ trace {to_trace}", dim=True)

    def of_line(self, depth: int, line: Line) -> str:
        bad = {"warning": "yellow", "error": "red"}.get(line.level)
        text = f"· {line.level}: {line.text}" if bad else f"· {line.text}"
        return click.style(self._aside(depth, text), dim=not bad, fg=bad)

    def _aside(self, depth: int, text: str) -> str:
        indent = " " * (self.service + 1) + "  " * (min(depth, self.name // 4) + 1)
        return indent + _cut(text, self.width - len(indent))


def _tree(spans: Sequence[Span]) -> Iterator[tuple[int, Span]]:
    """Depth and span, each after its parent, brothers by time. One whose parent is not there stands at the edge."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.start_ns):
        above = span.parent_id if span.parent_id in known and span.parent_id != span.span_id else ""
        children.setdefault(above, []).append(span)
    waiting = [(0, span) for span in reversed(children.pop("", []))]
    while waiting or children:
        if not waiting:  # a circle, which no sound program makes: it is shown all the same
            waiting = [(0, span) for span in children.pop(next(iter(children)))]
        depth, span = waiting.pop()
        yield depth, span
        waiting += [(depth + 1, below) for below in reversed(children.pop(span.span_id, []))]


def _by_span(trace: Trace) -> Mapping[str, Sequence[Line]]:
    """Lines by the span that they were said in; else by the last one that its service had begun by then."""
    known = {span.span_id for span in trace.spans}
    found: dict[str, list[Line]] = {}
    for line in sorted(trace.lines, key=lambda line: line.time_ns):
        at = line.span_id
        if at not in known:
            of_service = [span for span in trace.spans if span.service == line.service] or trace.spans
            begun = [span for span in of_service if span.start_ns <= line.time_ns] or of_service[:1]
            at = max(begun, key=lambda span: span.start_ns).span_id
        found.setdefault(at, []).append(line)
    return found


def _bar(start: int, end: int, whole: int, width: int) -> str:
    """Where it lies in the whole, to an eighth of a column; never nothing."""
    scale = width * 8 / whole if whole else 0.0
    first = min(int(start * scale), width * 8 - 1)
    last = min(max(int(end * scale), first + 1), width * 8)
    left, full = divmod(first, 8)
    cells = [" "] * width
    for column in range(left, (last + 7) // 8):
        inside = min(last - column * 8, 8)
        # Characters begin at the left: what begins within a column fills it from there.
        cells[column] = _EIGHTHS[max(inside - (full if column == left and inside < 8 else 0), 1)]
    return "".join(cells)


def _took(ns: int) -> str:
    """In 10 columns."""
    if ns >= 10**10:
        return f"{ns / 1e9:8.1f} s"
    if ns >= 10**9:
        return f"{ns / 1e9:8.3f} s"
    return f"{ns / 1e6:7.2f} ms"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def _wrapped(parts: Sequence[str], width: int) -> Iterator[str]:
    """As many parts in a line as fit."""
    line = ""
    for part in parts:
        longer = f"{line}, {part}" if line else part
        if line and len(longer) > width:
            yield line
            longer = part
        line = longer
    yield _cut(line, width)
