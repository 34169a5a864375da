"""What the pages ask of the store."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from services.log_files import Line
from services.telemetry.model import Dependency, LineQuery, Span, Status, TraceQuery

MOST_BESIDE = 20_000
"""Lines of one moment, to the nanosecond, among which it is looked for those that came before a line: they are a flood,
and what is left of it is passed by."""


class Reading(Protocol):
    """May be called from any thread, and may take its time: handlers ask in threads."""

    def trace(self, trace_id: str) -> Sequence[Span]:
        """By start; empty when unknown."""
        ...

    def traces(self, query: TraceQuery) -> Sequence[Sequence[Span]]:
        """Newest first."""
        ...

    def services(self) -> Sequence[str]: ...

    def span_names(self, service: str) -> Sequence[str]: ...

    def dependencies(self, since_ns: int, until_ns: int) -> Sequence[Dependency]: ...

    def lines(self, query: LineQuery) -> Sequence[Line]:
        """By time, or by their ids where `after_id` says that they are followed."""
        ...

    def last_line(self) -> int:
        """The id of the line that came last, which need not be the newest; 0: there is none."""
        ...

    def status(self) -> Status: ...


def lines(store: Reading, query: LineQuery, before_id: int) -> Sequence[Line]:
    """What the query asks for, or of that the newest that are older than a line; 0: no such line is named.

    Nothing where that line is no longer kept: what was older is gone as well.
    """
    if not before_id:
        return store.lines(query)
    first = store.lines(LineQuery(after_id=before_id - 1, limit=1)) if before_id > 1 else ()
    if not first or first[0].id != before_id:
        return []
    end = first[0].time_ns, before_id
    until_ns = end[0] if query.until_ns is None else min(end[0], query.until_ns)
    beside = query.limit  # lines of the same moment that are no older
    while beside < MOST_BESIDE:
        asked = replace(query, until_ns=until_ns, limit=query.limit + beside)
        found = store.lines(asked)
        older = [line for line in found if (line.time_ns, line.id) < end]
        if older and (len(older) >= query.limit or len(found) < asked.limit):
            return older[-query.limit :]
        if len(found) < asked.limit:  # no more, or too large for one answer
            break
        beside *= 4
    return store.lines(replace(query, until_ns=end[0] - 1))
