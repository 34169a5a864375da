"""Rows of one segment. One thread writes, a batch is one transaction."""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services import ids
from services.log_files import LEVELS, Line
from services.telemetry import otlp, schema

ORDER = re.compile(ids.ORDER.pattern.encode())
"""An order's name, wherever it stands in a span: no decoding, and foreign attributes name orders as well."""
_LARGEST = 2**63 - 1
_ERROR = 2
_REMEMBERED = 20_000
"""Ids per kind that are known without asking. What is written together was begun together."""
_SPAN = (
    "insert into spans (trace, operation, instance, start_ns, duration_ns, error, data) values (?, ?, ?, ?, ?, ?, ?)"
)
_LINE = """
insert into lines (id, time_ns, voice, message, trace, span_id, "order", fields) values (?, ?, ?, ?, ?, ?, ?, ?)"""
_WORDS = "insert into words (rowid, said) values (?, ?)"
_MARK = "insert into marks values (?, ?, ?) on conflict (part) do update set file = excluded.file, byte = excluded.byte"

type Mark = tuple[str, int, int]
"""Whose log, which file of it, and the byte up to which it was read."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Log lines with their fields as JSON, and how far their file was read with them."""

    lines: Sequence[tuple[Line, bytes]]
    mark: Mark | None


type Item = bytes | Lines
"""Log lines, or an encoded ExportTraceServiceRequest."""


class Writer:
    """Of one segment; ends it by `close`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """Raises sqlite3.Error; then the connection is closed."""
        self._database = database
        self._ids: dict[str, dict[tuple[object, ...], int]] = {}
        with schema.closed_on_error(database):
            (self._last_line,) = database.execute("select coalesce(max(id), 0) from lines").fetchone()
        self._named: set[tuple[int, int]] = set()
        """Order and trace, that are written."""

    def write(self, items: Iterable[Item]) -> None:
        """All of them or, when it raises sqlite3.Error, none."""
        last_line = self._last_line
        try:
            self._database.execute("begin immediate")
            for item in items:
                if isinstance(item, Lines):
                    self._lines(item)
                else:
                    self._database.executemany(_SPAN, self._spans(ExportTraceServiceRequest.FromString(item)))
            self._database.execute("commit")
        except BaseException:
            self._last_line = last_line
            self._ids.clear()
            self._named.clear()
            if self._database.in_transaction:
                self._database.execute("rollback")
            raise

    def mark(self, marks: Iterable[Mark]) -> None:
        """What the segment before knew of files. Raises sqlite3.Error."""
        self._database.executemany(_MARK, marks)

    def close(self) -> None:
        self._database.close()

    def _spans(self, request: ExportTraceServiceRequest) -> Iterator[tuple[object, ...]]:
        traces, operations = self._known("traces"), self._known("operations")
        for resource in request.resource_spans:
            service, name = otlp.source(resource.resource)
            instance = self._known("instances").get((name,)) or self._new("instances", "name", (name,))
            for scope in resource.scope_spans:
                for span in scope.spans:
                    if not otlp.is_sound(span):
                        continue
                    key = (span.trace_id,)
                    trace = traces.get(key) or self._new("traces", "trace_id", key)
                    data = span.SerializeToString()
                    if b"orders/" in data:
                        for order in ORDER.findall(data):
                            self._name(trace, self._order(order.decode()))
                    start, end, called = span.start_time_unix_nano, span.end_time_unix_nano, (service, span.name)
                    operation = operations.get(called) or self._new("operations", "service, name", called)
                    yield (
                        trace, operation, instance, min(start, _LARGEST), min(max(end - start, 0), _LARGEST),
                        span.status.code == _ERROR, data,
                    )  # fmt: skip

    def _lines(self, item: Lines) -> None:
        rows, words = list[tuple[object, ...]](), list[tuple[int, str]]()
        traces, voices, id = self._known("traces"), self._known("voices"), self._last_line
        for line, fields in item.lines:
            id += 1
            trace = order = span = None
            if line.trace_id:
                key = (bytes.fromhex(line.trace_id),)
                trace = traces.get(key) or self._new("traces", "trace_id", key)
                span = bytes.fromhex(line.span_id)
            if line.order:
                order = self._order(line.order)
                if trace and (order, trace) not in self._named:
                    self._name(trace, order)
            said_by = (line.service, line.instance, LEVELS.index(line.level))
            voice = voices.get(said_by) or self._new("voices", "service, instance, level", said_by)
            time_ns = min(max(line.time_ns, 0), _LARGEST)
            rows.append((id, time_ns, voice, line.message, trace, span, order, fields))
            words.append((id, " ".join([line.message, *otlp.texts(line.fields.values())])))
        self._last_line = id
        self._database.executemany(_LINE, rows)
        self._database.executemany(_WORDS, words)
        if item.mark:
            self.mark([item.mark])

    def _name(self, trace: int, order: int) -> None:
        if (order, trace) not in self._named:
            if len(self._named) > _REMEMBERED:
                self._named.clear()
            self._named.add((order, trace))
            self._database.execute("insert into orders_traces values (?, ?) on conflict do nothing", (order, trace))

    def _order(self, name: str) -> int:
        return self._known("orders").get((name,)) or self._new("orders", "name", (name,))

    def _known(self, table: str) -> dict[tuple[object, ...], int]:
        return self._ids.setdefault(table, {})

    def _new(self, table: str, columns: str, key: tuple[object, ...]) -> int:
        """The id of a row that is not known here; most are not there yet."""
        marks = ", ".join("?" * len(key))
        added = f"insert into {table} ({columns}) values ({marks}) on conflict do nothing returning id"  # noqa: S608  names of ours
        asked = f"select id from {table} where ({columns}) = ({marks})"  # noqa: S608
        row = self._database.execute(added, key).fetchone() or self._database.execute(asked, key).fetchone()
        known = self._ids[table]
        if len(known) > _REMEMBERED:
            known.clear()
        id: int = row[0]
        known[key] = id
        return id
