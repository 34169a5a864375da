"""A trace as it is drawn in a terminal."""

import re
from dataclasses import replace
from uuid import UUID

import pytest
from click import unstyle

from services.cli.telemetry.trace import wanted
from services.cli.telemetry.waterfall import Line, Span, Trace, drawn
from services.failure import Failure
from services.story.asking import CannotTell

TRACE, OTHER = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"
ORDER = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
BEGAN = 1_795_938_000_000_000_000
MS = 1_000_000


def span(id: str, above: str, service: str, name: str, *ms: int, failed: bool = False, **facts: str) -> Span:
    """From and to a millisecond; `reason=OUT_OF_STOCK` is the attribute `shop.reason`."""
    attributes = {f"shop.{key}": value for key, value in facts.items()}
    return Span(id, above, service, name, BEGAN + ms[0] * MS, BEGAN + ms[1] * MS, failed, attributes)


PLACED = Trace(
    TRACE,
    [
        span("5", "4", "notification", "process shop.order.v1.OrderPlaced", 60, 80),
        span("4", "2", "order", "send shop.order.v1.OrderPlaced", 50, 60),
        span("2", "1", "order", "shop.order.v1.OrderService/PlaceOrder", 1, 20, order=f"orders/{ORDER}"),
        span("3", "2", "order", "shop.inventory.v1.InventoryService/ReserveStock", 5, 15, failed=True, reason="NONE"),
        span("1", "client", "envoy", "ingress", 0, 21),
    ],
    [
        Line(BEGAN + 19 * MS, "info", "order", "2", "call code=OK"),
        Line(BEGAN + 21 * MS, "info", "envoy", "", "call code=200"),
        Line(BEGAN + 70 * MS, "warning", "notification", "5", "slow"),
    ],
)


def picture(trace: Trace, width: int = 100) -> list[str]:
    return [unstyle(line).rstrip() for line in drawn(trace, width)]


def test_each_span_stands_under_its_parent_with_what_was_said_in_it() -> None:
    head, rows = picture(PLACED)[:3], picture(PLACED)[3:]

    assert head[0] == f"trace {TRACE}"
    assert re.fullmatch(r"2026-11-29 07:40:00 UTC, +80.00 ms, 5 spans of notification, order, envoy, 1 failed", head[1])
    assert head[2] == f"orders/{ORDER}"
    assert [re.split(r"  +[█-▏]|$", row)[0] for row in rows if row] == [
        "envoy        ingress",
        "               · call code=200",
        "order          OrderService/PlaceOrder",
        "                 · call code=OK",
        "order            InventoryService/ReserveStock  ✗ NONE",
        "order            send OrderPlaced",
        "notification       process OrderPlaced",
        "                     · warning: slow",
    ]


def test_bars_show_when_and_times_show_exactly() -> None:
    rows = [row for row in picture(PLACED) if row.endswith("ms") and "spans" not in row]
    bars = [re.search(r"[█-▏]+", row) for row in rows]

    starts = [bar.start() for bar in bars if bar]
    lengths = [len(bar[0]) for bar in bars if bar]
    assert len(bars) == len(starts) == 5
    assert starts == sorted(starts)
    assert starts[4] - starts[0] == pytest.approx(lengths[4] * 3, abs=3)
    assert rows[4].split()[-4:] == ["60.00", "ms", "20.00", "ms"]


@pytest.mark.parametrize("width", [30, 50, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    linked = replace(PLACED, spans=[replace(each, links=[(OTHER, "1")]) for each in PLACED.spans])

    rows = picture(linked, width)[1:]

    assert max(len(row) for row in rows if OTHER not in row and ORDER not in row) <= max(width, 45)
    assert sum(OTHER in row for row in rows) == 5, "an id is of no use when it is cut"


def test_a_refusal_is_told_and_is_no_error_of_the_one_who_refuses() -> None:
    refused = replace(PLACED, spans=[span("1", "", "order", "PlaceOrder", 0, 1, reason="OUT_OF_STOCK")], lines=[])

    assert "failed" not in "".join(picture(refused))
    assert "PlaceOrder  OUT_OF_STOCK" in picture(refused)[-1]
    assert "✗" not in picture(refused)[-1]


@pytest.mark.parametrize(
    "parents",
    [{"1": "2", "2": "1"}, {"1": "1", "2": "2"}, {"1": "", "2": "nobody"}],
    ids=["a circle", "its own parent", "an unknown parent"],
)
def test_whatever_parents_are_said_each_span_is_shown_once(parents: dict[str, str]) -> None:
    odd = Trace(TRACE, [span(id, above, "s", f"name-{id}", 0, 1) for id, above in parents.items()])

    assert sorted(re.findall(r"name-\d", "".join(picture(odd)))) == ["name-1", "name-2"]


def test_a_trace_that_took_no_time_is_drawn() -> None:
    assert picture(Trace(TRACE, [span("1", "", "s", "now", 0, 0)]))[-1].endswith("0.00 ms    0.00 ms")


HOSTILE = "\x1b]0;owned\x07\x1b[2J\n\u202e\u200b"


def test_hostile_text_stays_text() -> None:
    sent = Span.of(
        {"span_id": "1", "parent_id": "", "service": HOSTILE, "name": HOSTILE, "start_ns": BEGAN, "end_ns": BEGAN + MS,
         "status": "ERROR", "attributes": {"shop.reason": HOSTILE, "error.type": HOSTILE, "shop.order": HOSTILE},
         "links": []}
    )  # fmt: skip
    said = Line.of(
        {"time": "2026-11-29T07:40:00Z", "level": "error", "service": HOSTILE, "span_id": "", "message": HOSTILE,
         "fields": {HOSTILE: HOSTILE}}
    )  # fmt: skip

    shown = picture(Trace(TRACE, [sent], [said]), width=200)

    assert all(line.isprintable() for line in shown)
    assert "owned" in "".join(shown)


@pytest.mark.parametrize(
    ("id", "order", "means"),
    [
        (TRACE, None, (TRACE, None)),
        (TRACE.upper(), None, (TRACE, None)),
        (None, ORDER, (None, UUID(ORDER))),
        (None, f"orders/{ORDER}", (None, UUID(ORDER))),
        (f"orders/{ORDER}", None, (None, UUID(ORDER))),
    ],
)
def test_a_trace_or_an_order_is_named(id: str | None, order: str | None, means: tuple[str | None, UUID | None]) -> None:
    assert wanted(id, order) == means


@pytest.mark.parametrize(
    ("id", "order", "said"),
    [
        (None, None, "say which"),
        (TRACE, ORDER, "one of the two"),
        ("0af7", None, "32 hexadecimal digits"),
        (None, "products/mug", "no order"),
    ],
)
def test_what_is_neither_is_refused_with_a_way_on(id: str | None, order: str | None, said: str) -> None:
    with pytest.raises((Failure, CannotTell), match=said):
        wanted(id, order)
