"""What comes in: a queue that never blocks whoever fills it, and the thread that empties it into the segments.

What finds no room, or no disk, is dropped and counted: the store is worth less than what it watches.
"""

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.chassis import logs
from services.log_files import Line
from services.telemetry import memory, otlp
from services.telemetry.segments import Segments, is_broken
from services.telemetry.writing import Item, Lines, Mark, Writer

GATHER_S = 0.1
"""What comes within that time is written together."""
HOUSEKEEPING_S = 10.0
"""So often segments that are too old are looked for, and drops are told of."""
MOST_BYTES = 8 << 20
"""Waiting. Spans wait as they came over the wire: decoded they would take ten times as much."""
_LINE_BYTES = 1000
"""Of a line, besides its texts."""

OVERLOADED = "overloaded"
INVALID = "ids invalid"

log = logs.get()


@dataclass(slots=True)
class _Waiting:
    item: Item
    spans: int
    lines: int
    bytes: int


class Intake:
    """Takes spans and lines from any thread."""

    def __init__(self, segments: Segments, most_bytes: int = MOST_BYTES) -> None:
        self._segments, self._most_bytes = segments, most_bytes
        self._changed = threading.Condition()
        self._queue: list[_Waiting] = []
        self._bytes = 0
        self._closed = False
        self._counted = threading.Lock()
        self._dropped_spans = Counter[str]()
        self._dropped_lines = Counter[str]()
        self._refused = Counter[str]()
        self._told = 0
        self._number = 0
        self._writer: Writer | None = None
        self._kept_house = True

    # --- any thread

    def put_spans(self, request: ExportTraceServiceRequest, data: bytes | None = None) -> tuple[int, str]:
        """`data`: the encoded request. Returns how many spans are not kept, and why (empty when all are)."""
        invalid = total = 0
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                total += len(scope.spans)
                invalid += sum(not otlp.is_sound(span) for span in scope.spans)
        self._drop_spans(INVALID, invalid)
        if total == invalid:
            return invalid, INVALID if invalid else ""
        spans = total - invalid
        data = request.SerializeToString() if data is None else data
        if not self._put(_Waiting(data, spans, 0, len(data))):
            self._drop_spans(OVERLOADED, spans)
            return total, OVERLOADED
        return invalid, INVALID if invalid else ""

    def put_lines(self, lines: Sequence[Line], mark: Mark | None = None) -> bool:
        """`mark` is kept in the same transaction. False: there was no room, the lines were dropped and counted."""
        encoded = [(line, orjson.dumps(line.fields, default=repr, option=orjson.OPT_NON_STR_KEYS)) for line in lines]
        size = sum(len(line.message) + len(fields) + _LINE_BYTES for line, fields in encoded)
        if self._put(_Waiting(Lines(encoded, mark), 0, len(lines), size)):
            return True
        self._drop_lines(OVERLOADED, len(lines))
        return False

    @property
    def has_room(self) -> bool:
        """Whether a reader of files should go on: they wait better where they are. Then nothing is dropped."""
        return self._bytes < self._most_bytes // 2

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    def refuse(self, reason: str) -> None:
        """Counts a request that was refused."""
        with self._counted:
            self._refused[reason] += 1

    def dropped_spans(self) -> Mapping[str, int]:
        """By reason, since the start."""
        return self._copy(self._dropped_spans)

    def dropped_lines(self) -> Mapping[str, int]:
        return self._copy(self._dropped_lines)

    def refused(self) -> Mapping[str, int]:
        return self._copy(self._refused)

    def close(self) -> None:
        """Ends `run`, when it has written what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _put(self, waiting: _Waiting) -> bool:
        with self._changed:
            if self._closed or (not self.has_room and self._bytes + waiting.bytes > self._most_bytes):
                return False
            self._queue.append(waiting)
            self._bytes += waiting.bytes
            self._changed.notify()
        return True

    def _drop_spans(self, reason: str, count: int) -> None:
        if count:
            with self._counted:
                self._dropped_spans[reason] += count

    def _drop_lines(self, reason: str, count: int) -> None:
        if count:
            with self._counted:
                self._dropped_lines[reason] += count

    def _copy(self, counter: Counter[str]) -> Mapping[str, int]:
        with self._counted:
            return dict(counter)

    # --- the writing thread

    def run(self) -> None:
        """Writes what comes until `close`."""
        kept_house = time.monotonic()
        try:
            while (batch := self._batch()) is not None:
                if batch:
                    self._write(batch)
                    with self._changed:
                        self._bytes -= sum(waiting.bytes for waiting in batch)
                if time.monotonic() - kept_house >= HOUSEKEEPING_S:
                    kept_house = time.monotonic()
                    self._expire()
                    self._tell()
                    memory.give_back()
        finally:
            if self._writer:
                self._writer.close()

    def _batch(self) -> list[_Waiting] | None:
        """What has come, empty when nothing did for a while; None after the last."""
        with self._changed:
            if not self._queue and not self._closed:
                self._changed.wait(HOUSEKEEPING_S)
            if self._queue and not self._closed:
                self._changed.wait_for(lambda: self._closed or self._bytes > self._most_bytes // 2, GATHER_S)
            if not self._queue and self._closed:
                return None
            batch, self._queue = self._queue, []
            return batch

    def _write(self, batch: Sequence[_Waiting]) -> None:
        """All or nothing; what does not get onto the disk is counted."""
        for last_try in (False, True):
            try:
                self._ready_writer().write(waiting.item for waiting in batch)
                self._segments.wrote(self._number)
            except (sqlite3.Error, OSError) as error:
                number = self._number
                self._end_writer()
                if is_broken(error) and not last_try and self._put_aside(number, error):
                    continue
                reason = _reason(error)
                self._drop_spans(reason, sum(waiting.spans for waiting in batch))
                self._drop_lines(reason, sum(waiting.lines for waiting in batch))
            return

    def _ready_writer(self) -> Writer:
        """Of the newest segment, or of a new one if it is time for it. Raises sqlite3.Error, OSError."""
        if self._writer and self._number not in self._segments.numbers():
            self._end_writer()  # a reader found it broken
        if self._writer is None and (resumed := self._segments.resume()):
            self._number, self._writer = resumed[0], Writer(resumed[1])
        if self._writer is None or self._segments.is_full(self._number):
            marks = self._segments.marks()
            self._end_writer()
            self._number, database = self._segments.begin()
            self._writer = Writer(database)
            self._writer.mark(marks)
            self._expire()
        return self._writer

    def _expire(self) -> None:
        """What cannot be removed now is tried again; it is told once."""
        try:
            self._segments.expire()
            self._kept_house = True
        except OSError as error:
            if self._kept_house:
                log.warning("old files of the store cannot be removed", error=error.strerror)
            self._kept_house = False

    def _put_aside(self, number: int, broken: Exception) -> bool:
        try:
            self._segments.put_aside(number, broken)
        except OSError as error:
            log.warning("a broken file of the store cannot be put aside", error=error.strerror)
            return False
        return True

    def _end_writer(self) -> None:
        if self._writer:
            self._writer.close()
        self._writer = None

    def _tell(self) -> None:
        """At most one line for all that was dropped since the last one."""
        with self._counted:
            total = self._dropped_spans.total() + self._dropped_lines.total()
        if total > self._told:
            log.warning(
                "spans and log lines were dropped",
                dropped=total - self._told, spans=self.dropped_spans(), lines=self.dropped_lines(),
            )  # fmt: skip
            self._told = total


def _reason(error: Exception) -> str:
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return "disk full" if code == sqlite3.SQLITE_FULL else f"not written: {error}"
    return f"not written: {error.strerror if isinstance(error, OSError) else error}"
