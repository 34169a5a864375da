from dataclasses import replace

from services.telemetry.waterfall import MOST_BARS, waterfall
from tests.support.told_store import A_SPAN, BEGAN_NS, MS

CHILD = replace(
    A_SPAN, span_id="00f067aa0ba902b7", parent_id=A_SPAN.span_id, service="inventory", name="Reserve",
    start_ns=BEGAN_NS + 3 * MS, end_ns=BEGAN_NS + 24 * MS, status="ERROR",
)  # fmt: skip


def test_bars_lie_where_their_spans_lie_in_time() -> None:
    picture = waterfall([replace(A_SPAN, name="shop.order.v1.OrderService/PlaceOrder"), CHILD])
    assert (picture.name, picture.duration_ns, picture.failed) == ("OrderService/PlaceOrder", 24 * MS, True)
    assert [(bar.x, bar.width, bar.failed) for bar in picture.bars] == [(0, 500, False), (125, 875, True)]
    assert [bar.label for bar in picture.bars][1] == "inventory: Reserve"


def test_a_service_has_the_same_colour_in_every_picture_and_others_have_their_own() -> None:
    spans = [replace(A_SPAN, service=service) for service in ("demo", "order", "mine", "inventory", "demo")]
    picture = waterfall(spans)
    assert dict(picture.services) == {"demo": 5, "order": 0, "mine": 6, "inventory": 1}
    assert [bar.colour for bar in picture.bars] == [5, 0, 6, 1, 5]


def test_a_span_without_duration_is_seen_and_one_that_ends_before_it_begins_does_no_harm() -> None:
    back = replace(A_SPAN, end_ns=BEGAN_NS - 5 * MS)
    assert waterfall([replace(A_SPAN, end_ns=BEGAN_NS)]).bars[0].width > 0
    assert waterfall([back]).bars[0].width > 0
    assert waterfall([A_SPAN, back]).bars[1].duration_ns == 0


def test_of_a_large_trace_the_first_spans_are_drawn_and_all_are_counted() -> None:
    picture = waterfall([A_SPAN] * 500)
    assert (len(picture.bars), picture.spans) == (MOST_BARS, 500)
