"""What is understood of an event, and what never will be."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from shop.order.v1.events_pb2 import OrderPlaced
from structlog.testing import capture_logs

from services.chassis.bus.pulling import Message as BusMessage
from services.money import Money
from services.notification.domain import Garbled, Kind, Line, News
from services.notification.events import OrderEvents, understand
from services.notification.letters import letter
from services.notification.use_cases import Hearing
from tests.support.notification import MemoryNotifications, event, order_cancelled, order_placed, order_rejected

ORDER = "2f1c1d1e-5d0b-4f0e-9a55-0d9f3c1b7a10"
PLACED = order_placed(UUID(ORDER))
EVENTS = [PLACED, order_rejected(PLACED), order_cancelled(PLACED)]


def message(payload: bytes, subject: str = "shop.order.v1.OrderPlaced", **headers: str) -> BusMessage:
    return BusMessage(subject, headers, payload, traceparent=None)


def test_a_placed_order_is_understood() -> None:
    placed = event(payload=PLACED.SerializeToString())

    news = understand(placed)

    assert isinstance(news, News)
    assert news.event is placed
    assert (news.kind, str(news.order_id), news.version) == (Kind.ORDER_PLACED, ORDER, 1)
    assert (news.customer, news.recipient) == ("ann", "ann@example.com")
    assert news.placed_at == datetime(2026, 11, 24, 16, 20, tzinfo=UTC)
    assert news.lines == (Line("Blue mug", 2, Money.of("EUR", 12, 500_000_000)),)
    assert news.total == Money.of("EUR", 25)


@pytest.mark.parametrize(
    ("message", "kind", "reason"),
    [
        (order_rejected(PLACED), Kind.ORDER_REJECTED, "OUT_OF_STOCK"),
        (order_cancelled(PLACED), Kind.ORDER_CANCELLED, ""),
    ],
    ids=lambda value: value.DESCRIPTOR.name if isinstance(value, Message) else "",
)
def test_what_became_of_an_order_is_understood_with_its_reason(message: Message, kind: Kind, reason: str) -> None:
    news = understand(event(message.DESCRIPTOR.full_name, payload=message.SerializeToString()))

    assert isinstance(news, News)
    assert (news.kind, str(news.order_id), news.version, news.reason) == (kind, ORDER, 2, reason)


def changed(change: Callable[[OrderPlaced], object]) -> bytes:
    message = OrderPlaced()
    message.CopyFrom(PLACED)
    change(message)
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xff\xff\xff", "DecodeError"),
        (b"", "order: value is required"),
        (changed(lambda it: it.ClearField("version")), "version"),
        (changed(lambda it: it.ClearField("recipient")), "recipient"),
        (changed(lambda it: setattr(it, "recipient", "ann@a\r\nBcc: eve@b")), "recipient is no address"),
        (changed(lambda it: setattr(it.order, "name", "orders/1")), "badly formed hexadecimal UUID"),
        (changed(lambda it: setattr(it.order, "name", ORDER)), "does not begin with orders/"),
        (changed(lambda it: it.order.ClearField("customer")), "does not begin with customers/"),
        (changed(lambda it: it.order.ClearField("lines")), "order.lines"),
        (changed(lambda it: it.order.ClearField("create_time")), "create_time is missing"),
        (changed(lambda it: setattr(it.order.create_time, "seconds", 2**60)), "Error"),
    ],
)
def test_what_never_will_be_understood_says_why(payload: bytes, reason: str) -> None:
    garbled = understand(event(payload=payload))

    assert isinstance(garbled, Garbled)
    assert reason in garbled.reason


@given(garbage=st.binary(max_size=200), at=st.integers(0), cut=st.integers(0, 40), of=st.sampled_from(EVENTS))
def test_whatever_is_made_of_an_event_it_is_news_with_words_for_it_or_garbled_with_a_reason(
    garbage: bytes, at: int, cut: int, of: Message
) -> None:
    """Anything else would stop the events behind it."""
    good = of.SerializeToString()
    at %= len(good)

    understood = understand(event(of.DESCRIPTOR.full_name, payload=good[:at] + garbage + good[at + cut :]))

    if isinstance(understood, Garbled):
        assert understood.reason
    else:
        assert letter(understood).text


async def test_what_is_not_known_is_passed_by_and_counted() -> None:
    kept = MemoryNotifications()
    events = OrderEvents(Hearing(kept, letter, lambda: None))

    with capture_logs() as lines:
        await events.handle([message(b"?", "shop.order.v1.OrderPostponed"), message(b"?", "shop.order.v1.OrderMoved")])
        await events.handle([message(b"", "shop.order.v1.OrderPostponed")])

    assert not kept.rows
    assert not kept.dead
    assert [(line["event_type"].rpartition(".")[2], line["passed_by"]) for line in lines] == [
        ("OrderPostponed", 1),
        ("OrderMoved", 1),
        ("OrderPostponed", 2),
    ]


async def test_a_batch_is_taken_whatever_is_in_it() -> None:
    kept = MemoryNotifications()
    events = OrderEvents(Hearing(kept, letter, lambda: None))
    good = message(PLACED.SerializeToString(), **{"ce-type": "shop.order.v1.OrderPlaced", "ce-id": "1"})
    poison = message(b"\xff\xff\xff")
    unknown = message(b"\xff\xff\xff", subject="shop.order.v1.OrderPostponed")

    await events.handle([poison, unknown, good])

    [row] = kept.rows.values()
    assert str(row.news.order_id) == ORDER
    assert row.news.event.id == "1"
    assert len(kept.dead) == 1
