"""`shopmesh audit` over real tables and a real stream: silent on what is right, by name on what is wrong."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import nats
import pytest
from nats.js import JetStreamContext

from services.cli.audit.looking import Report, look
from services.cli.audit.page import as_document, page
from services.cli.audit.rules import MENDS
from services.order.contract import event_id
from services.order.events import STREAM
from tests.support.backstage import Backstage
from tests.support.waiting import DEADLINE_S
from tests.unit.order.fakes import MUGS

PLACED, CANCELLED = "shop.order.v1.OrderPlaced", "shop.order.v1.OrderCancelled"
LONG_AGO = "now() - interval '5 min'"


@pytest.fixture
async def stream(shop: Backstage) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(shop.nats.url)
    yield client.jetstream()
    await client.close()


@asynccontextmanager
async def without_constraint(shop: Backstage, service: str, table: str, name: str, rule: str) -> AsyncIterator[None]:
    await shop.corrupt(service, f"alter table {table} drop constraint {name}")
    yield
    await shop.clear()
    await shop.corrupt(service, f"alter table {table} add constraint {name} {rule}")


async def no_pause() -> None: ...


async def at_once(shop: Backstage, *, deep: bool = False, since: datetime | None = None) -> Report:
    """For what nobody works on, a second look need not wait."""
    return await look(shop.urls, shop.nats.url, deep=deep, since=since, pause=no_pause)


def named(report: Report) -> set[tuple[str, str]]:
    """Each difference by kind and the first of its ids."""
    return {(difference.kind, next(iter(difference.ids.values()))) for difference in report.differences}


@pytest.mark.parametrize("deep", [False, True])
async def test_a_shop_at_rest_has_no_difference(shop: Backstage, deep: bool) -> None:
    first, *_ = await shop.sold(5)
    async with shop.work():
        await shop.cancel(first)
        await shop.at_rest()

    report = await at_once(shop, deep=deep)

    assert (report.differences, report.notes, report.unseen, report.exit_code) == ([], {}, "", 0)
    assert report.counts == {
        "orders": 5, "events": 6, "reservations": 5, "notifications": 6, "products": 2, "messages": 6,
        "distinct_event_ids": 6,
    }  # fmt: skip


# What somebody did to the rows of one order, the database it was done in, and what is said of it.
CORRUPTED: list[tuple[Sequence[str], str, str]] = [
    (["event-missing"], "order", "update orders set version = 2 where id = '{id}'"),
    (
        ["event-missing", "notification-without-event", "message-unknown"],
        "order",
        "delete from order_events where order_id = '{id}'",
    ),
    (["event-without-order", "reservation-without-order"], "order", "delete from orders where id = '{id}'"),
    (
        ["event-id", "notification-without-event", "message-differs"],
        "order",
        "update order_events set event_id = gen_random_uuid() where order_id = '{id}'",
    ),
    (["event-state"], "order", "update orders set state = 'REJECTED', settled_time = null where id = '{id}'"),
    (
        ["event-late"],
        "order",
        f"update order_events set sent_time = null, create_time = {LONG_AGO} where order_id = '{{id}}'",
    ),
    (
        ["order-late"],
        "order",
        f"update orders set settled_time = null, update_time = {LONG_AGO} where id = '{{id}}'",
    ),
    (["reservation-state", "event-state"], "order", "update orders set state = 'PENDING_STOCK' where id = '{id}'"),
    (["reservation-state", "reservation-ledger"], "inventory", "delete from reservations where id = '{id}'"),
    (
        ["reservation-state", "reservation-ledger"],
        "inventory",
        "update reservations set state = 'EXPIRED' where id = '{id}'",
    ),
    (
        ["reservation-lines"],
        "order",
        "update orders set lines = jsonb_set(lines, '{{0, quantity}}', '7') where id = '{id}'",
    ),
    (
        ["notification-missing"],
        "notification",
        "delete from notifications where order_id = '{id}'",
    ),
    (["notification-without-event"], "notification", "update notifications set version = 7 where order_id = '{id}'"),
    (
        ["notification-without-event", "notification-missing"],
        "notification",
        "update notifications set kind = 'ORDER_CANCELLED' where order_id = '{id}'",
    ),
    (
        ["notification-twice"],
        "notification",
        """insert into notifications
        (id, order_id, kind, version, customer, recipient, subject, body, event_type, event_id, state)
        select gen_random_uuid(), order_id, kind, version, customer, recipient, subject, body, event_type, event_id,
        state from notifications where order_id = '{id}'""",
    ),
    (["notification-addressee"], "notification", "update notifications set customer = 'bob' where order_id = '{id}'"),
    (
        ["notification-addressee"],
        "notification",
        "update notifications set recipient = 'bob@example.com' where order_id = '{id}'",
    ),
    (
        ["mail-late"],
        "notification",
        f"update notifications set state = 'READY', claimable_time = {LONG_AGO} where order_id = '{{id}}'",
    ),
    (
        ["mail-late"],
        "notification",
        f"update notifications set state = 'SENDING', claimable_time = {LONG_AGO} where order_id = '{{id}}'",
    ),
    (["mail-superseded"], "notification", "update notifications set state = 'SUPERSEDED' where order_id = '{id}'"),
    (["mail-failed"], "notification", "update notifications set state = 'FAILED' where order_id = '{id}'"),
    (
        ["dead-letter"],
        "notification",
        """insert into dead_letters (id, notification_id, order_id, event_type, event_id, reason, attempts)
        select id, id, order_id, event_type, event_id, '550 no such user', 1 from notifications
        where order_id = '{id}'""",
    ),
]


async def test_each_row_that_was_corrupted_is_named_with_its_mend(shop: Backstage) -> None:
    orders = await shop.sold(len(CORRUPTED) + 2)
    await shop.corrupt("order", f"update order_events set sent_time = {LONG_AGO}")
    expected = set[tuple[str, str]]()
    corruptions = list(zip(orders, CORRUPTED, strict=False))
    expected |= {(kind, str(order.id)) for order, (kinds, _, _) in corruptions for kind in kinds}
    # The sums stay right: only the two reservations tell.
    less, more = orders[-2:]
    for order, on_hand in ((less, 0), (more, -2)):
        await shop.corrupt(
            "inventory",
            f"update ledger set on_hand_delta = {on_hand}"
            f" where reservation_id = '{order.id}' and kind = 'CONFIRMED' and product = 'mug'",
        )
        expected.add(("reservation-ledger", str(order.id)))

    async with without_constraint(shop, "notification", "notifications", "inbox", "unique (order_id, kind)"):
        for order, (_, service, statement) in corruptions:
            await shop.corrupt(service, statement.format(id=order.id))
        report = await at_once(shop)

    assert named(report) ^ expected == set()
    assert report.exit_code == 1


async def test_stock_that_does_not_add_up_is_named(shop: Backstage) -> None:
    await shop.stock.reserve(held := uuid4(), MUGS, timedelta(minutes=10))
    bounds = "check (0 <= reserved and reserved <= on_hand)"
    async with without_constraint(shop, "inventory", "stock", "promised_pieces_are_there", bounds):
        await shop.corrupt(
            "inventory",
            f"update reservations set expire_time = {LONG_AGO} where id = '{held}'",
            "insert into stock values ('bounds', 1, 2, 1), ('ledger', 5, 0, 1), ('held', 5, 2, 1)",
            "insert into ledger (product, kind, on_hand_delta, reserved_delta) values ('bounds', 'ADJUSTED', 1, 2),"
            " ('held', 'ADJUSTED', 5, 2), ('nowhere', 'ADJUSTED', 1, 0)",
        )
        report = await at_once(shop)

    assert named(report) == {
        ("hold-late", str(held)),
        ("stock-bounds", "bounds"),
        ("stock-held", "bounds"),
        ("stock-ledger", "ledger"),
        ("stock-held", "held"),
        ("stock-ledger", "nowhere"),
        ("stream-missing", STREAM),
    }


async def stored(stream: JetStreamContext, number: int) -> dict[UUID, tuple[int, bytes]]:
    """The first messages: where they lie and what they say, by event."""
    messages = [await stream.get_msg(STREAM, sequence + 1) for sequence in range(number)]
    return {UUID((message.headers or {})["ce-id"]): (message.seq or 0, message.data or b"") for message in messages}


async def published(stream: JetStreamContext, id: UUID, payload: bytes, type: str = PLACED, copy: str = "") -> None:
    headers = {"ce-id": str(id), "ce-type": type, "Nats-Msg-Id": f"{id}{copy}"}
    await stream.publish(type, payload, headers=headers)


async def test_what_the_stream_has_too_much_or_too_little_is_named(shop: Backstage, stream: JetStreamContext) -> None:
    orders = await shop.sold(5)
    there = await stored(stream, 5)
    # Without its first message a stream is one that was purged.
    _, lost, doubled, older, good = sorted(orders, key=lambda order: there[event_id(order)][0])
    await stream.delete_msg(STREAM, there[event_id(lost)][0])
    await published(stream, event_id(doubled), there[event_id(doubled)][1], copy="/1")
    await published(stream, event_id(older), there[event_id(older)][1], copy="/1")
    attempts = f"1 + (order_id = '{older.id}')::int"
    await shop.corrupt("order", f"update order_events set attempts = {attempts}")
    await published(stream, uuid4(), there[event_id(good)][1], copy="/stranger")
    await published(stream, uuid4(), b"\xff", copy="/garbled")

    report = await at_once(shop)

    assert named(report) == {
        ("message-missing", str(lost.id)),
        ("message-twice", str(doubled.id)),
        ("message-differs", str(good.id)),
        ("message-unknown", "9"),
    }
    assert report.counts["messages"] == 8
    assert report.counts["distinct_event_ids"] == 6


async def test_only_a_deep_look_reads_what_events_say(shop: Backstage, stream: JetStreamContext) -> None:
    order, _ = await shop.sold(2)
    await shop.corrupt(
        "order",
        f"update order_events set payload = (select payload from order_events where order_id <> '{order.id}')"
        f" where order_id = '{order.id}'",
    )

    assert not (await at_once(shop)).differences
    deep = await at_once(shop, deep=True)

    assert named(deep) == {("event-payload", str(order.id)), ("message-differs", str(order.id))}


async def test_a_purged_stream_lacks_only_what_it_should_still_have(shop: Backstage, stream: JetStreamContext) -> None:
    orders = await shop.sold(4)
    *_, gone = await stored(stream, 4)
    await stream.purge_stream(STREAM, seq=3)
    assert not (await at_once(shop)).differences

    await stream.delete_msg(STREAM, 4)
    await shop.corrupt(
        "order", f"update order_events set sent_time = now() + interval '1 min' where event_id = '{gone}'"
    )

    [lost] = [order for order in orders if event_id(order) == gone]
    assert named(await at_once(shop)) == {("message-missing", str(lost.id))}


async def test_a_stream_that_order_does_not_know_is_named(shop: Backstage, stream: JetStreamContext) -> None:
    await shop.sold(1)
    await shop.corrupt("order", "update event_stream set create_time = create_time - interval '1 s'")

    assert named(await at_once(shop)) == {("stream-unnoticed", STREAM)}


async def test_what_is_on_its_way_is_no_difference(shop: Backstage) -> None:
    fresh, pending, backing_off, discarded, buried, resent, *_ = await shop.sold(7)
    await shop.stock.reserve(uuid4(), MUGS, timedelta(minutes=10))
    soon = "now() + interval '5 min'"
    await shop.corrupt(
        "order",
        f"update orders set settled_time = null, update_time = now() where id = '{fresh.id}'",
        f"update order_events set sent_time = null, create_time = now() where order_id = '{fresh.id}'",
        f"update orders set state = 'PENDING_STOCK', settled_time = null, update_time = {LONG_AGO},"
        f" claimed_until = {soon} where id = '{pending.id}'",
        f"update order_events set type = null, event_id = null, sent_time = null where order_id = '{pending.id}'",
        f"update order_events set sent_time = {LONG_AGO} where order_id in ('{discarded.id}', '{buried.id}')",
    )
    await shop.corrupt(
        "notification",
        f"delete from notifications where order_id in ('{fresh.id}', '{pending.id}', '{buried.id}')",
        f"update notifications set state = 'READY', attempts = 9, claimable_time = {soon}"
        f" where order_id = '{backing_off.id}'",
        f"update notifications set state = 'FAILED' where order_id = '{discarded.id}'",
        "insert into dead_letters (id, notification_id, order_id, event_type, event_id, reason, attempts, state)"
        " select id, id, order_id, event_type, event_id, '550', 1, 'DISCARDED' from notifications"
        f" where order_id = '{discarded.id}'",
        "insert into dead_letters (id, event_type, event_id, reason, attempts, state)"
        f" values (gen_random_uuid(), '{PLACED}', '{event_id(buried)}', 'garbled', 1, 'DISCARDED')",
        f"update notifications set possible_duplicates = 1 where order_id = '{resent.id}'",
    )

    report = await at_once(shop)

    # The message of the order that was made a pending one.
    assert named(report) == {("message-unknown", str(pending.id))}
    assert sorted(report.notes.values()) == [1, 1, 1]


async def test_a_pending_order_that_nobody_tries_is_late(shop: Backstage) -> None:
    [order] = await shop.sold(1)
    await shop.corrupt(
        "order",
        f"update orders set state = 'PENDING_STOCK', settled_time = null, update_time = {LONG_AGO},"
        f" claimed_until = {LONG_AGO}",
    )

    assert ("order-late", str(order.id)) in named(await at_once(shop))


async def test_a_difference_that_is_gone_at_the_second_look_is_none(shop: Backstage) -> None:
    await shop.sold(1)
    await shop.corrupt("inventory", "update reservations set state = 'HELD'")

    async def mended() -> None:
        await shop.corrupt("inventory", "update reservations set state = 'CONFIRMED'")

    report = await look(shop.urls, shop.nats.url, pause=mended)

    # What one statement has read together needs no second look.
    assert {kind for kind, _ in named(report)} == {"stock-held", "reservation-ledger"}


async def test_an_older_order_is_looked_at_when_asked_for_or_still_under_way(shop: Backstage) -> None:
    old, older, open_one = await shop.sold(3)
    last_year = "now() - interval '1 year'"
    for order in (old, older, open_one):
        await shop.corrupt("order", f"update orders set create_time = {last_year} where id = '{order.id}'")
        await shop.corrupt("order", f"update order_events set create_time = {last_year} where order_id = '{order.id}'")
        await shop.corrupt("inventory", f"update reservations set create_time = {last_year} where id = '{order.id}'")
        await shop.corrupt(
            "notification", f"update notifications set create_time = {last_year} where order_id = '{order.id}'"
        )
    await shop.corrupt("inventory", f"update ledger set create_time = {last_year} where kind <> 'ADJUSTED'")
    await shop.corrupt("order", f"update orders set version = 2 where id in ('{old.id}', '{open_one.id}')")
    await shop.corrupt("order", f"update orders set settled_time = null where id = '{open_one.id}'")

    yesterday = await at_once(shop, since=datetime.now(UTC) - timedelta(days=1))
    everything = await at_once(shop)

    assert named(yesterday) == {("event-missing", str(open_one.id))}
    assert named(everything) == {("event-missing", str(open_one.id)), ("event-missing", str(old.id))}
    assert yesterday.counts["orders"] == 1


async def test_a_shop_that_sells_has_no_difference_at_any_moment(shop: Backstage) -> None:
    await shop.stocked(mug=1_000_000, teapot=1_000_000)
    reports, looked_again = list[Report](), 0

    def enough() -> bool:
        return len(reports) >= 3 and looked_again >= 2

    async def buyer(number: int) -> None:
        while not enough():
            order = await shop.place()
            if number % 2:
                await shop.cancel(order)

    async def pause() -> None:
        nonlocal looked_again
        looked_again += 1
        await asyncio.sleep(0.2)  # the workers need their time

    async def auditor() -> None:
        while not enough():
            reports.append(await look(shop.urls, shop.nats.url, deep=len(reports) == 1, pause=pause))

    async with shop.work(), asyncio.timeout(DEADLINE_S):
        await asyncio.gather(auditor(), *(buyer(number) for number in range(4)))

    assert [report.differences for report in reports] == [[]] * len(reports)
    assert reports[-1].counts["orders"] > 10


async def test_of_very_many_some_are_named_and_the_others_counted(shop: Backstage) -> None:
    await shop.sold(5)
    await shop.corrupt("inventory", "update reservations set state = 'HELD'")

    async def mended() -> None:
        await shop.corrupt("inventory", "update reservations set state = 'CONFIRMED'")

    many = await look(shop.urls, shop.nats.url, most=2, pause=no_pause)
    none = await look(shop.urls, shop.nats.url, most=2, pause=mended)

    assert Counter(difference.kind for difference in many.differences)["reservation-state"] == 2
    assert many.more["reservation-state"] == 3
    assert "3 more of reservation-state" in page(many)
    assert none.more["reservation-state"] == 0


async def test_nats_away_is_said_and_the_rest_looked_at(shop: Backstage) -> None:
    await shop.sold(1)
    report = await look(shop.urls, "nats://127.0.0.1:1", pause=no_pause)

    assert (report.exit_code, report.differences) == (2, [])
    assert "NATS" in report.unseen
    assert report.counts["orders"] == 1


async def test_a_page_and_a_document_tell_all_of_it(shop: Backstage) -> None:
    order, _ = await shop.sold(2)
    await shop.corrupt(
        "order", f"update orders set settled_time = null, update_time = {LONG_AGO} where id = '{order.id}'"
    )

    report = await at_once(shop)

    first, second, third, *_, last = page(report).splitlines()
    assert first == f"order-late  order {order.id}"
    assert second.startswith("  it is PLACED and not settled, since 20")
    assert second.endswith("UTC (5 min)")
    assert third == f"  mend: {MENDS['order-late']}"
    assert last == "1 difference"
    assert "looked at all there is: 2 orders, 2 events, 2 messages in the stream" in page(report)
    document = json.loads(json.dumps(as_document(report)))
    assert document["differences"][0].keys() == {"kind", "ids", "what", "since", "mend"}
    assert document["differences"][0]["ids"] == {"order": str(order.id)}
    assert document["looked_at"]["orders"] == 2


def test_every_kind_of_difference_is_seen_here_and_documented() -> None:
    here = Path(__file__).read_text()
    manual = (Path(__file__).parents[3] / "docs/operating.md").read_text()

    assert [kind for kind in MENDS if f'"{kind}"' not in here] == []
    assert re.findall(r"^\| `([a-z]+(?:-[a-z]+)+)` \|", manual, re.MULTILINE) == list(MENDS)
