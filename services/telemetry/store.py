"""What is kept, for those who ask. Every read may be made in any thread."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from opentelemetry.proto.trace.v1 import trace_pb2

from services.log_files import Line
from services.telemetry import finding, otlp
from services.telemetry.intake import Intake
from services.telemetry.model import MOST_SPANS, Dependency, LineQuery, Span, Status, TraceQuery
from services.telemetry.segments import LINE_IDS, Segments

MOST_DATA = 16 << 20
"""Bytes of a trace, and of all lines of an answer; decoded they take several times as much. The one span or line that
goes beyond it is the last."""
_DEPENDENCIES_OF = 300_000
"""Spans, the newest, by which dependencies are counted: a second's work."""

MOST_S = 5.0
"""For a question, which then raises TooLong: those that look at every span would keep all others waiting."""
MOST_NAMES = 1_000
"""To choose from. What is longer than 500 characters is no name that somebody chooses."""

_SERVICES = """
select service from operations where length(service) <= 500
union select service from voices where length(service) <= 500 limit 1000"""
_SPAN_NAMES = "select name from operations where service = ? and length(name) <= 500 limit 1000"
_SPANS_OF_TRACE = """
select service, instances.name, data from spans join operations on operations.id = operation
  join instances on instances.id = instance where trace = (select id from traces where trace_id = ?) limit ?"""
_SPANS_BETWEEN = """
select trace, service, error, data from spans join operations on operations.id = operation
where trace in (select distinct trace from spans where start_ns between ? and ?) order by trace desc limit ?"""


class Store:
    """Answers from all segments; one that breaks while it is read is left out."""

    def __init__(self, segments: Segments, intake: Intake) -> None:
        self._segments, self._intake = segments, intake

    def trace(self, trace_id: str) -> list[Span]:
        """Its spans by start, 10,000 or 16 MiB at most; empty when there is none, or when this is no trace id."""
        try:
            key = bytes.fromhex(trace_id)
        except ValueError:
            return []
        return self._spans(key)[0]

    def traces(self, query: TraceQuery) -> list[list[Span]]:
        """Newest first, by the newest of its spans to which the query applies. Fewer when they are very large."""
        named = self._traces_of(query.order) if query.order else None
        found: dict[bytes, None] = {}
        until_s = _deadline()
        for number in self._segments.newest_first():
            with self._segments.reading(number, until_s) as database:
                for trace_id in finding.traces(database, query, named) if database else ():
                    found[trace_id] = None
                    if len(found) >= query.limit:
                        break
            if len(found) >= query.limit:
                break
        answer, left, left_bytes = list[list[Span]](), MOST_SPANS, MOST_DATA
        for trace_id in found:
            spans, size = self._spans(trace_id)
            if spans:  # else it has gone meanwhile
                answer.append(spans)
            left, left_bytes = left - len(spans), left_bytes - size
            if left <= 0 or left_bytes <= 0:
                break
        return answer

    def services(self) -> list[str]:
        """That have spans or log lines, by name; 1,000 at most."""
        return self._names(_SERVICES)

    def span_names(self, service: str) -> list[str]:
        """Of a service, by name; 1,000 at most."""
        return self._names(_SPAN_NAMES, service)

    def dependencies(self, since_ns: int, until_ns: int) -> list[Dependency]:
        """Who called whom in traces of that time; by the newest 300,000 spans."""
        calls, errors = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        left, until_s = _DEPENDENCIES_OF, _deadline()
        for number in self._segments.newest_first():
            with self._segments.reading(number, until_s) as database:
                rows = database.execute(_SPANS_BETWEEN, (since_ns, until_ns, left)) if database else ()
                for _, spans in groupby(rows, itemgetter(0)):
                    left -= _count(_bounded(spans), calls, errors)
            if left <= 0:
                break
        return [Dependency(*pair, calls=count, errors=errors[pair]) for pair, count in sorted(calls.items())]

    def lines(self, query: LineQuery) -> list[Line]:
        """By time; when they are followed, by arrival.

        The service may also be an instance. Lines of an order are those that name it, and those of all its traces.
        """
        traces = self._traces_of(query.order) if query.order else None
        found, left = list[Line](), MOST_DATA
        following, until_s = query.after_id > 0, _deadline()
        for number in self._segments.numbers() if following else self._segments.newest_first():
            with self._segments.reading(number, until_s) as database:
                if database:
                    more, size = finding.lines(database, number, query, traces, query.limit - len(found), left)
                    found += more
                    left -= size
            if len(found) >= query.limit or left < 0:  # never a gap, which who reads on would not know of
                break
        return sorted(found, key=lambda line: line.id if following else (line.time_ns, line.id))

    def marks(self) -> dict[str, tuple[int, int]]:
        """By part of the shop: which of its log files was read last, and up to which byte."""
        return {part: (file, byte) for part, file, byte in self._segments.marks()}

    def last_line(self) -> int:
        """The id of the line that came last; 0 when there is none. Where one who follows begins."""
        for number in self._segments.newest_first():
            with self._segments.reading(number) as database:
                last = database.execute("select max(id) from lines").fetchone()[0] if database else None
                if last:
                    return number * LINE_IDS + int(last)
        return 0

    def status(self) -> Status:
        """What is kept now, and what was not kept since the start."""
        spans = sum(count for (count,) in self._all("select coalesce(max(id), 0) from spans"))
        lines = sum(count for (count,) in self._all("select coalesce(max(id), 0) from lines"))
        oldest_s = self._segments.oldest_s() if spans or lines else None
        return Status(
            spans=spans,
            lines=lines,
            bytes=self._segments.bytes(),
            most_bytes=self._segments.bounds.bytes,
            oldest_ns=None if oldest_s is None else int(oldest_s * 1e9),
            waiting_bytes=self._intake.waiting_bytes,
            dropped_spans=self._intake.dropped_spans(),
            dropped_lines=self._intake.dropped_lines(),
            refused=self._intake.refused(),
        )

    def _names(self, question: str, *values: object) -> list[str]:
        return sorted({name for (name,) in self._all(question, *values)})[:MOST_NAMES]

    def _traces_of(self, order: str) -> set[bytes]:
        return {trace_id for (trace_id,) in self._all(finding.TRACES_OF_ORDER, order)}

    def _spans(self, trace_id: bytes) -> tuple[list[Span], int]:
        """Of a trace by start, as many as are shown, and how many bytes they have."""
        rows = list(_bounded(self._all(_SPANS_OF_TRACE, trace_id, MOST_SPANS)))
        spans = sorted((otlp.span(data, *by) for *by, data in rows), key=lambda span: span.start_ns)
        return spans, sum(len(row[-1]) for row in rows)

    def _all(self, question: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """Rows of all segments, the newest segment first. One at a time: all together may be a segment."""
        until_s = _deadline()
        for number in self._segments.newest_first():
            with self._segments.reading(number, until_s) as database:
                if database:
                    yield from database.execute(question, values)


def _deadline() -> float:
    """Of the monotonic clock, for a question that begins now."""
    return time.monotonic() + MOST_S


def _bounded(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """No more than is shown of a trace. What a row ends with is the encoded span."""
    size = 0
    for row in islice(rows, MOST_SPANS):
        yield row
        size += len(row[-1])
        if size > MOST_DATA:
            break


def _count(rows: Iterable[tuple[Any, ...]], calls: Counter[tuple[str, str]], errors: Counter[tuple[str, str]]) -> int:
    """Calls from one service to another in one trace; returns of how many spans."""
    spans = list[tuple[str, int, bytes, bytes]]()
    for _, service, error, data in rows:
        span = trace_pb2.Span.FromString(data)
        spans.append((service, error, span.span_id, span.parent_span_id))
    services = {id: service for service, _, id, _ in spans}
    for service, error, _, above in spans:
        caller = services.get(above)
        if caller is not None and caller != service:
            calls[caller, service] += 1
            errors[caller, service] += error
    return len(spans)
