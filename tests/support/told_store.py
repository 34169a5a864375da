"""A store for tests of what is made of its answers: everything in memory, found by plain comparison."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from services.log_files import LEVELS, Line
from services.telemetry.model import Dependency, LineQuery, Span, Status, TraceQuery

TRACE = "0af7651916cd43dd8448eb211c80319c"
ORDER = "orders/1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
BEGAN_NS = 1_790_000_000_000_000_000
MS = 1_000_000

A_SPAN = Span(
    trace_id=TRACE, span_id="b7ad6b7169203331", parent_id="", service="order", instance="order-1", name="PlaceOrder",
    kind="SERVER", start_ns=BEGAN_NS, end_ns=BEGAN_NS + 12 * MS, status="UNSET", status_message="", attributes={},
    events=(), links=(),
)  # fmt: skip
A_LINE = Line(
    id=0, time_ns=BEGAN_NS, level="info", service="order", instance="order-1", message="call", trace_id="", span_id="",
    order="", fields={},
)  # fmt: skip

NOTHING = Status(
    spans=0, lines=0, bytes=0, most_bytes=10**9, oldest_ns=None, waiting_bytes=0, dropped_spans={}, dropped_lines={},
    refused={},
)  # fmt: skip


@dataclass
class ToldStore:
    """Has what it was told, and answers as `services.telemetry.reading.Reading` says."""

    spans: list[Span] = field(default_factory=list[Span])
    said: list[Line] = field(default_factory=list[Line])
    now: Status = NOTHING
    asked: list[object] = field(default_factory=list[object])

    def forget(self) -> None:
        """As if nothing had ever been told."""
        self.spans, self.said, self.asked, self.now = [], [], [], NOTHING

    def tell(self, *lines: Line) -> None:
        for line in lines:
            self.said.append(line._replace(id=len(self.said) + 1))

    def last_line(self) -> int:
        return len(self.said)

    def trace(self, trace_id: str) -> Sequence[Span]:
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start_ns)

    def traces(self, query: TraceQuery) -> Sequence[Sequence[Span]]:
        self.asked.append(query)
        of_order = {span.trace_id for span in self.spans if query.order in ("", span.attributes.get("shop.order"))}
        ids = {span.trace_id: None for span in self._newest_first() if _fits(span, query)}
        return [self.trace(id) for id in ids if id in of_order][: query.limit]

    def services(self) -> Sequence[str]:
        return sorted({span.service for span in self.spans} | {line.service for line in self.said})

    def span_names(self, service: str) -> Sequence[str]:
        return sorted({span.name for span in self.spans if span.service == service})

    def dependencies(self, since_ns: int, until_ns: int) -> Sequence[Dependency]:
        self.asked.append((since_ns, until_ns))
        return [Dependency("order", "product", calls=3, errors=1)]

    def lines(self, query: LineQuery) -> Sequence[Line]:
        self.asked.append(query)
        found = [line for line in self.said if _says(line, query)]
        return found[: query.limit] if query.after_id else found[-query.limit :]

    def status(self) -> Status:
        return replace(self.now, spans=len(self.spans), lines=len(self.said))

    def _newest_first(self) -> Iterable[Span]:
        return sorted(self.spans, key=lambda span: -span.start_ns)


def _fits(span: Span, query: TraceQuery) -> bool:
    return (
        query.service in ("", span.service)
        and query.span_name in ("", span.name)
        and all(
            name in span.attributes and value in ("", span.attributes[name]) for name, value in query.attributes.items()
        )
    )


def _says(line: Line, query: LineQuery) -> bool:
    return (
        query.service in ("", line.service, line.instance)
        and (not query.level or LEVELS.index(line.level) >= LEVELS.index(query.level))
        and query.text.lower() in line.message.lower()
        and query.trace_id in ("", line.trace_id)
        and query.order in ("", line.order)
        and query.since_ns <= line.time_ns <= (query.until_ns or 2**63)
        and line.id > query.after_id
    )
