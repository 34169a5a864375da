"""`shopmesh order`: everything about one order, over real tables."""

import json
from uuid import uuid4

import pytest

from services.cli.shop.order_page import document, page
from services.order.contract import event_id
from services.order.domain import Order, OrderRejected
from services.story.asking import CannotTell
from services.story.databases import Databases
from services.story.trail import Trail, trail
from tests.support.backstage import Backstage
from tests.unit.order.fakes import MUGS, TERMS
from tests.unit.order.fakes import order as made

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def followed(shop: Backstage, order: Order) -> Trail:
    async with Databases(shop.urls) as databases:
        return await trail(databases, order.id)


async def test_a_page_tells_state_history_reservation_events_and_mails(shop: Backstage) -> None:
    [order] = await shop.sold(1)
    async with shop.work():
        await shop.cancel(order)
        await shop.at_rest()
    await shop.corrupt(
        "order",
        "update order_events set resends = 2 where version = 1",
        f"update order_events set traceparent = '00-{TRACE}-b7ad6b7169203331-01' where version = 2",
    )
    await shop.corrupt(
        "notification", "update notifications set possible_duplicates = 1, attempts = 3 where kind = 'ORDER_PLACED'"
    )

    shown = page(order.id, await followed(shop, order))

    wanted = [
        f"orders/{order.id}",
        "CANCELLED, version 2, settled",
        "ann@example.com  (ann)",
        "EUR 51.50",
        "version 1",
        "PLACED",
        "shop.order.v1.OrderPlaced, sent ",
        f"sent again 2 times as {event_id(order)}",
        "version 2",
        "CANCELLED",
        "shop.order.v1.OrderCancelled, sent ",
        f"trace {TRACE}",
        "RELEASED since",
        "1 x mug",
        "HELD       mug  on hand +0, reserved +1",
        "CONFIRMED  mug  on hand -1, reserved -1",
        "RELEASED   mug  on hand +1, reserved +0",
        "ORDER_PLACED to ann@example.com: SENT",
        "3 attempts, possibly sent 2 times",
        "ORDER_CANCELLED to ann@example.com: SENT",
    ]
    for words in wanted:  # in this order
        assert words in shown, words
        shown = shown[shown.index(words) :]


async def test_a_page_tells_what_does_not_go_on(shop: Backstage) -> None:
    [order] = await shop.sold(1)
    await shop.corrupt(
        "order",
        "update orders set settled_time = null, attempts = 7, last_error = 'INVENTORY_UNAVAILABLE'",
        "update order_events set sent_time = null, unsent_time = now(), attempts = 1, last_error = 'BusUnavailable'",
    )
    await shop.corrupt(
        "notification",
        "update notifications set state = 'READY', last_error = '451 later'",
        "insert into dead_letters (id, event_type, event_id, reason, attempts)"
        f" values (gen_random_uuid(), 'shop.order.v1.OrderPlaced', '{event_id(order)}', 'recipient is no address', 1)",
    )

    shown = page(order.id, await followed(shop, order))

    assert "PLACED, version 1, not settled yet: 7 attempts, INVENTORY_UNAVAILABLE" in shown
    assert "to be sent again, after 1 attempt BusUnavailable" in shown
    assert "READY, next attempt" in shown
    assert "last error: 451 later" in shown
    assert "OPEN since" in shown
    assert "recipient is no address" in shown


async def test_a_pending_order_and_why_it_was_rejected(shop: Backstage) -> None:
    pending = made(MUGS).pending()
    await shop.orders.add(pending, None, "r1")
    rejected = pending.reject("INVENTORY_UNAVAILABLE", pending.create_time)
    await shop.orders.change(OrderRejected(rejected))

    shown = page(pending.id, await followed(shop, pending))

    assert "  PENDING_STOCK\n    told to nobody" in shown
    assert "  REJECTED INVENTORY_UNAVAILABLE\n    shop.order.v1.OrderRejected, NOT SENT after 0 attempts" in shown
    assert "reservation\n  none" in shown


async def test_a_document_has_the_same_for_programs(shop: Backstage) -> None:
    [order] = await shop.sold(1)

    told = json.loads(json.dumps(document(order.id, await followed(shop, order))))

    assert told["order"]["state"] == "PLACED"
    assert [line["product"] for line in told["order"]["lines"]] == ["mug", "teapot"]
    assert [(each["version"], each["state"], each["reason"]) for each in told["versions"]] == [(1, "PLACED", "")]
    assert told["versions"][0]["event_id"] == str(event_id(order))
    assert told["reservation"]["state"] == "CONFIRMED"
    assert len(told["ledger"]) == 4
    assert [each["state"] for each in told["notifications"]] == ["SENT"]
    assert told["dead_letters"] == []


async def test_what_is_no_order_is_said_with_what_there_is_of_it(shop: Backstage) -> None:
    await shop.stock.reserve(id := uuid4(), MUGS, TERMS.hold_ttl)
    async with Databases(shop.urls) as databases:
        found = await trail(databases, id)

    with pytest.raises(CannotTell, match=f"there is no order {id}, but a reservation that is HELD"):
        page(id, found)


async def test_hostile_text_stays_text(shop: Backstage) -> None:
    [order] = await shop.sold(1)
    hostile = "\x1b]0;owned\x07\x1b[2J\n\u202e"
    await shop.corrupt(
        "order",
        f"update orders set email = $${hostile}$$, settled_time = null, last_error = $${hostile}$$,"
        f" state_reason = $${hostile}$$, request_id = $${hostile}$$",
    )
    await shop.corrupt(
        "notification",
        f"update notifications set subject = $${hostile}$$, recipient = $${hostile}$$, last_error = $${hostile}$$",
    )

    shown = page(order.id, await followed(shop, order))

    assert all(line.isprintable() for line in shown.split("\n"))
    assert shown.count("owned") == 7
