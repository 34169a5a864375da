"""The table of events, as the relay reads it, and the whole way to a reader of the stream."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from shop.order.v1 import events_pb2

from services.chassis.bus import Bus, Message
from services.chassis.database import Database
from services.chassis.messages import violations
from services.chassis.worker import Failed, Worker
from services.order.contract import EVENT_TYPES, event_id
from services.order.domain import Order, OrderPlaced, OrderRejected
from services.order.events import STREAM, ClaimedEvent, SqlEvents, relay
from services.order.store import SettlerJob, SqlOrders
from services.order.use_cases import Settlement
from tests.support.nats import NatsServer, running_nats
from tests.support.waiting import eventually
from tests.unit.order.fakes import MUG_AND_TEAPOT, NOON, order

MONDAY, TUESDAY = datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def nats() -> Iterator[NatsServer]:
    """A server of one's own, to be wiped."""
    with running_nats() as server:
        yield server


async def placed(database: Database, request_id: str = "r1") -> Order:
    one = order(MUG_AND_TEAPOT, request_id=request_id)
    return await SqlOrders(database, committed=lambda: None).add(one, OrderPlaced(one), request_id)


async def rejected(database: Database, one: Order) -> Order:
    async def nothing(orders: Sequence[Order]) -> Sequence[Settlement]:
        raise AssertionError(orders)

    settler = SettlerJob(database, nothing, committed=lambda: None)
    [claimed] = [item for item in await settler.claim(100) if item.order.id == one.id]
    event = OrderRejected(one.reject("OUT_OF_STOCK", NOON))
    await settler.settle([(claimed, event)])
    return event.order


async def let_leases_end(database: Database) -> None:
    await database.execute("update order_events set claimed_until = now() - interval '1 s'")


async def test_events_of_one_order_are_claimed_one_after_the_other(database: Database) -> None:
    events, one = SqlEvents(database), await placed(database)
    await rejected(database, one)

    [first] = await events.claim_events(100)
    await let_leases_end(database)
    [again] = await events.claim_events(100)
    await events.settle_events([(again, None)])
    [second] = await events.claim_events(100)

    assert (first.version, again.version, second.version) == (1, 1, 2)
    assert first.type == "shop.order.v1.OrderPlaced"
    assert second.type == "shop.order.v1.OrderRejected"
    assert second.id == event_id(one.reject("OUT_OF_STOCK", NOON))


async def test_an_event_is_claimed_once(database: Database) -> None:
    for number in range(20):
        await placed(database, f"r{number}")

    batches = await asyncio.gather(*(SqlEvents(database).claim_events(5) for _ in range(8)))

    taken = [event.id for batch in batches for event in batch]
    assert len(taken) == len(set(taken))
    rest = [event.id for event in await SqlEvents(database).claim_events(100)]
    assert len({*taken, *rest}) == 20


async def test_an_event_that_was_not_sent_is_written_down_and_comes_again(database: Database) -> None:
    events = SqlEvents(database)
    await placed(database)
    [first] = await events.claim_events(100)

    await events.settle_events([(first, Failed("BusUnavailable"))])

    assert await database.fetchval("select last_error from order_events") == "BusUnavailable"
    [again] = await eventually(lambda: events.claim_events(100), "the event is claimed again")
    assert again.id == first.id


async def test_who_has_lost_the_lease_marks_nothing(database: Database) -> None:
    events = SqlEvents(database)
    await placed(database)
    await placed(database, "r2")
    one, other = await events.claim_events(100)
    await let_leases_end(database)

    await events.settle_events([(one, None), (other, Failed("too late"))])

    assert await database.fetchval("select count(*) from order_events where sent_time is null") == 2
    assert await database.fetchval("select count(last_error) from order_events") == 0


async def sent(events: SqlEvents, some: Sequence[ClaimedEvent]) -> None:
    await events.settle_events([(event, None) for event in some])


async def test_events_of_the_last_day_go_out_again_under_the_same_id_when_the_stream_was_lost(
    database: Database,
) -> None:
    events = SqlEvents(database)
    assert await events.stream_created(MONDAY) == 0
    recent, old = await placed(database), await placed(database, "r2")
    await sent(events, first := await events.claim_events(100))
    await database.execute(
        "update order_events set create_time = now() - interval '25 hours' where order_id = $1", old.id
    )

    assert await events.stream_created(MONDAY) == 0
    assert await events.stream_created(TUESDAY) == 1
    assert await events.stream_created(TUESDAY) == 0

    [again] = await events.claim_events(100)
    assert again.order_id == recent.id
    assert again.id in {event.id for event in first}
    assert again.resends == 1


async def test_an_event_on_its_way_to_a_stream_that_was_lost_goes_to_the_new_one(database: Database) -> None:
    events = SqlEvents(database)
    await events.stream_created(MONDAY)
    await placed(database)
    under_way = await events.claim_events(100)

    await events.stream_created(TUESDAY)
    await sent(events, under_way)  # The lost stream had confirmed it.

    [again] = await events.claim_events(100)
    assert (again.id, again.resends) == (under_way[0].id, 0)


async def test_a_lost_stream_is_found_by_one_replica(database: Database) -> None:
    events = SqlEvents(database)
    await events.stream_created(MONDAY)
    await placed(database)
    await sent(events, await events.claim_events(100))

    found = await asyncio.gather(*(SqlEvents(database).stream_created(TUESDAY) for _ in range(8)))

    assert sorted(found) == [0] * 7 + [1]
    assert await database.fetchval("select resends from order_events") == 1


@asynccontextmanager
async def told(database: Database, nats: NatsServer) -> AsyncIterator[list[Message]]:
    """Relay and a reader at work."""
    read: list[Message] = []

    async def handle(messages: Sequence[Message]) -> None:
        read.extend(messages)

    bus = await Bus.connect(nats.url, "test")
    running = [
        asyncio.create_task(Worker(relay(database, bus), poll_s=0.05).run()),
        asyncio.create_task(bus.consume(STREAM, "reader", EVENT_TYPES, handle)),
    ]
    try:
        yield read
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await bus.close()


async def test_everybody_is_told_the_whole_order_also_by_a_stream_that_was_lost(
    database: Database, nats: NatsServer
) -> None:
    one = await placed(database)
    last = await rejected(database, one)

    async with told(database, nats) as read:

        async def both() -> bool:
            return len(read) >= 2

        await eventually(both, "both events are read")
        nats.wipe()
        read.clear()
        await eventually(both, "both events are read from the new stream")

    by_type = {message.headers["ce-type"]: message for message in read}
    assert [message.headers["ce-id"] for message in by_type.values()] == [str(event_id(one)), str(event_id(last))]
    event = events_pb2.OrderRejected.FromString(by_type["shop.order.v1.OrderRejected"].data)
    assert not violations(event)
    assert (event.version, event.recipient) == (2, "ann@example.com")
    assert event.order.name == f"orders/{one.id}"
    assert event.order.state_reason == "OUT_OF_STOCK"
    assert [(line.product, line.display_name, line.quantity) for line in event.order.lines] == [
        ("products/mug", "Mug", 1),
        ("products/teapot", "Teapot", 1),
    ]
    assert (event.order.total.units, event.order.total.nanos) == (51, 500_000_000)


async def test_times_are_kept_to_the_microsecond(database: Database) -> None:
    at = NOON + timedelta(microseconds=123_457)
    one = order(at=at)

    await SqlOrders(database, committed=lambda: None).add(one, OrderPlaced(one), "r1")

    [event] = await SqlEvents(database).claim_events(1)
    assert events_pb2.OrderPlaced.FromString(event.payload).order.create_time.ToDatetime(UTC) == at
