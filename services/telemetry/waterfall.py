"""A trace as a picture small enough to stand beside other things; Zipkin Lens draws the large one."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from services.ids import PACKAGE
from services.telemetry.model import Span

COLOURS = {"order": 0, "inventory": 1, "notification": 2, "product": 3, "envoy": 4}
"""Of the stylesheet: a service has the same in all pictures, and on the time line of an order."""
OTHERS = (5, 6, 7)
MOST_BARS = 60
WIDTH = 1_000.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A span, in thousandths of the picture's width."""

    x: float
    width: float
    colour: int
    failed: bool
    label: str
    duration_ns: int


@dataclass(frozen=True, slots=True)
class Waterfall:
    trace_id: str
    name: str
    """Of its first span, without the package of an rpc."""
    start_ns: int
    duration_ns: int
    bars: Sequence[Bar]
    """By start, at most MOST_BARS."""
    spans: int
    services: Sequence[tuple[str, int]]
    """With their colours, in the order of their first span."""
    failed: bool


def waterfall(spans: Sequence[Span]) -> Waterfall:
    """Of at least one span."""
    first = min(span.start_ns for span in spans)
    whole = max(1, max(span.end_ns for span in spans) - first)
    others = cycle(OTHERS)
    services = dict.fromkeys((span.service for span in spans), 0)
    for service in services:
        services[service] = COLOURS[service] if service in COLOURS else next(others)
    bars = [
        Bar(
            x=WIDTH * (span.start_ns - first) / whole,
            width=max(2.0, WIDTH * (span.end_ns - span.start_ns) / whole),
            colour=services[span.service],
            failed=span.status == "ERROR",
            label=f"{span.service}: {span.name}",
            duration_ns=max(0, span.end_ns - span.start_ns),
        )
        for span in spans[:MOST_BARS]
    ]
    root = next((span for span in spans if not span.parent_id), spans[0])
    return Waterfall(
        trace_id=root.trace_id,
        name=PACKAGE.sub("", root.name),
        start_ns=first,
        duration_ns=whole,
        bars=bars,
        spans=len(spans),
        services=list(services.items()),
        failed=any(bar.failed for bar in bars),
    )
