"""What is looked for in one segment: from indexes to the rows that are asked for."""

import heapq
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import orjson
from opentelemetry.proto.trace.v1 import trace_pb2

from services.log_files import LEVELS, Line
from services.telemetry import otlp
from services.telemetry.model import LineQuery, TraceQuery, Value
from services.telemetry.segments import LINE_IDS

TRACES_OF_ORDER = """
select trace_id from orders join orders_traces on orders_traces."order" = orders.id
  join traces on traces.id = trace where orders.name = ?"""
_EVER = 2**63 - 1
_MOST_OPERATIONS = 500
"""That are merged by time. Of a segment with more names than that (a hostile one) all spans are sorted."""
_LINES = """
select lines.id, time_ns, level, service, instance, message, trace_id, span_id, orders.name, fields
from lines join voices on voices.id = voice left join traces on traces.id = trace
  left join orders on orders.id = "order" where lines.id = ?"""


def traces(database: sqlite3.Connection, query: TraceQuery, named: Collection[bytes] | None) -> Iterator[bytes]:
    """Ids of traces with a span to which the query applies, the newest span first; an id may come twice.

    `named`: the traces that the order of the query was in.
    """
    where = " and start_ns between ? and ? and duration_ns between ? and ?"
    values: list[object] = [
        query.since_ns, _or_ever(query.until_ns), query.min_duration_ns, _or_ever(query.max_duration_ns),
    ]  # fmt: skip
    for key, value in query.attributes.items():
        where += " and (instr(data, ?) or error)" if _is_error(key, value) else " and instr(data, ?)"
        values.append(key.encode())
        if value and not _is_short(value):
            where += " and instr(data, ?)"
            values.append(value.encode())
    operations = [
        id
        for id, service, name in database.execute("select id, service, name from operations")
        if query.service in ("", service) and query.span_name in ("", name)
    ]

    def rows(condition: str) -> Iterator[tuple[int, int, int, bytes]]:
        asked = f"select start_ns, trace, error, data from spans where {condition}{where} order by start_ns desc"  # noqa: S608
        return database.execute(asked, values)

    if named is not None:
        found = rows(f"trace in ({_listed(_ids(database, named))}) and +operation in ({_listed(operations)})")
    elif len(operations) > _MOST_OPERATIONS:
        found = rows(f"operation in ({_listed(operations)})")
    else:
        found = heapq.merge(*(rows(f"operation = {id}") for id in operations), key=lambda row: -row[0])
    before: dict[int, None] = {}
    for _, trace, error, data in found:
        if trace not in before and _has(query, bool(error), data):
            before[trace] = None
            (trace_id,) = database.execute("select trace_id from traces where id = ?", (trace,)).fetchone()
            yield trace_id


def _has(query: TraceQuery, error: bool, data: bytes) -> bool:
    """Whether a span has the attributes, its events' counted as its own."""
    if not query.attributes:
        return True
    span = trace_pb2.Span.FromString(data)
    has = {key: _text(value) for key, value in otlp.attributes(span.attributes).items()}
    said = {event.name for event in span.events}
    return all(
        (error and _is_error(key, value)) or (key in said and not value) or (key in has and value in ("", has[key]))
        for key, value in query.attributes.items()
    )


def _is_error(key: str, value: str) -> bool:
    """Zipkin's tag for a span that failed, which in OTLP is its status."""
    return key == "error" and value in ("", "true")


def _is_short(value: str) -> bool:
    """Whether it may be encoded as something other than text."""
    return value in ("true", "false") or value[:1] in "-0123456789"


def _text(value: Value) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def lines(
    database: sqlite3.Connection,
    number: int,
    query: LineQuery,
    traces: Collection[bytes] | None,
    limit: int,
    most_bytes: int,
) -> tuple[list[Line], int]:
    """At most `limit` lines to which the query applies, and their bytes: the newest, or when it follows the oldest.

    The line that goes beyond `most_bytes` is the last. `traces`: those that the order of the query was in.
    """
    first = number * LINE_IDS
    after = max(query.after_id - first, 0) if query.after_id else None
    if after is not None and after >= LINE_IDS:
        return [], 0
    ids = _line_ids(database, query, traces, after, limit)
    found, size = list[Line](), 0
    for id in ids:
        row = database.execute(_LINES, (id,)).fetchone()
        found.append(_line(row, first))
        size += len(row[5]) + len(row[9])
        if size > most_bytes:
            break
    return found, size


def _line_ids(
    database: sqlite3.Connection, query: LineQuery, traces: Collection[bytes] | None, after: int | None, limit: int
) -> list[int]:
    """`after`: the line after which it is followed, 0 before the first; None when it is not."""
    wanted = _Wanted()
    narrow = bool(query.trace_id) or traces is not None
    if query.trace_id:
        wanted.add("trace = (select id from traces where trace_id = ?)", _hex(query.trace_id))
    if traces is not None:
        of = _listed(_ids(database, traces))
        wanted.add(f'("order" = (select id from orders where name = ?) or trace in ({of}))', query.order)  # noqa: S608  ids
    if query.since_ns or query.until_ns is not None:
        wanted.add("time_ns between ? and ?", query.since_ns, _or_ever(query.until_ns))
    voices = _voices(database, query)
    if voices is not None:
        wanted.add(f"+voice in ({_listed(voices)})")
    if after is not None:
        wanted.add("lines.id > ?", after)
    source, newest = "lines", "time_ns desc, lines.id desc"
    if query.text:
        if not (words := match(query.text)):
            return []
        if narrow:
            wanted.add("exists (select 1 from words where words match ? and words.rowid = lines.id)", words)
        else:
            source, newest = "words cross join lines on lines.id = words.rowid", "words.rowid desc"
            wanted.add("words match ?", words)
    elif not narrow and after is None:
        return _newest_by_voice(database, query, voices, limit)
    order = newest if after is None else "lines.id"
    asked = f"select lines.id from {source} where {wanted.conditions} order by {order} limit ?"  # noqa: S608
    return [id for (id,) in database.execute(asked, (*wanted.values, limit))]


def _newest_by_voice(
    database: sqlite3.Connection, query: LineQuery, voices: Sequence[int] | None, limit: int
) -> list[int]:
    """The newest of each voice, and of those the newest: an index has them in that order."""
    if voices is None:
        voices = [id for (id,) in database.execute("select id from voices")]
    asked = "select time_ns, id from lines where voice = ? and time_ns between ? and ? order by time_ns desc limit ?"
    between = query.since_ns, _or_ever(query.until_ns)
    found = [row for voice in voices for row in database.execute(asked, (voice, *between, limit))]
    return [id for _, id in heapq.nlargest(limit, found)]


def match(text: str) -> str:
    """As FTS5 is asked for lines that have all these words, each as the beginning of words of theirs."""
    words = [word.replace('"', " ") for word in text.split()]
    return " AND ".join(f'"{word}" *' for word in words if any(each.isalnum() for each in word))


def _voices(database: sqlite3.Connection, query: LineQuery) -> list[int] | None:
    """Those that the query is about; None: all."""
    if not (query.service or query.level):
        return None
    least = LEVELS.index(query.level) if query.level else 0
    asked = "select id from voices where level >= ? and ? in ('', service, instance)"
    return [id for (id,) in database.execute(asked, (least, query.service))]


def _line(row: tuple[Any, ...], first: int) -> Line:
    id, time_ns, level, service, instance, message, trace, span, order, fields = row
    return Line(
        id=first + id,
        time_ns=time_ns,
        level=LEVELS[level],
        service=service,
        instance=instance,
        message=message,
        trace_id=trace.hex() if trace else "",
        span_id=span.hex() if span else "",
        order=order or "",
        fields=orjson.loads(fields),
    )


class _Wanted:
    """Conditions, all of which hold, and the values of their question marks."""

    def __init__(self) -> None:
        self._conditions: list[str] = []
        self.values: list[object] = []

    def add(self, condition: str, *values: object) -> None:
        self._conditions.append(condition)
        self.values += values

    @property
    def conditions(self) -> str:
        return " and ".join(self._conditions) or "true"


def _ids(database: sqlite3.Connection, trace_ids: Collection[bytes]) -> list[int]:
    """Of those traces that this segment has."""
    asked = "select id from traces where trace_id = ?"
    return [id for trace_id in trace_ids for (id,) in database.execute(asked, (trace_id,))]


def _listed(ids: Iterable[int]) -> str:
    return ",".join(map(str, ids))


def _hex(text: str) -> bytes:
    """Empty for what is no id, which no trace has."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _or_ever(ns: int | None) -> int:
    return _EVER if ns is None else min(ns, _EVER)
