"""The table of events, as the relay reads it, and the whole way to a reader of the stream."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from shop.order.v1 import events_pb2

from services.chassis.bus.access import BusUnavailable
from services.chassis.bus.connection import PUBLISH_S, Bus
from services.chassis.bus.pulling import Message
from services.chassis.database import Database
from services.chassis.messages import violations
from services.chassis.outbox import Relay
from services.chassis.worker import Failed, Worker
from services.order.contract import EVENT_TYPES, event_id
from services.order.domain import Order, OrderPlaced, OrderRejected
from services.order.events import CLAIM_EVENTS, STREAM, ClaimedEvent, SqlEvents, relay
from services.order.store import SettlerJob, SqlOrders
from services.order.use_cases import Settlement
from tests.support.nats import NatsServer, running_nats
from tests.support.plans import plan
from tests.support.postgres import Postgres
from tests.support.waiting import eventually
from tests.unit.order.fakes import MUG_AND_TEAPOT, NOON, order

A_WHILE = 10.0
# Later versions lie before earlier ones, as they may after some updates.
FILL = """
insert into order_events (order_id, version, type, event_id, payload, create_time, claimed_until, sent_time)
select md5(n::text)::uuid, v, 'shop.order.v1.OrderPlaced', gen_random_uuid(), int4send(n) || int4send(v),
  now() - interval '1 hour' + (n + v / 10.0) * interval '1 ms', now() - interval '1 hour', now()
from generate_series($2::int, 1, -1) as v, generate_series(1, $1::int) as n"""

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


async def test_who_claims_passes_by_what_another_replica_is_claiming(database: Database) -> None:
    one, other = await placed(database), await placed(database, "r2")

    async with database.transaction() as replica:
        await replica.execute("select from order_events where order_id = $1 for update", one.id)
        [event] = await asyncio.wait_for(SqlEvents(database).claim_events(100), A_WHILE)

    assert event.order_id == other.id


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
    one, other = await events.claim_events(100, 0)
    again = await events.claim_events(100)

    await events.settle_events([(one, None), (other, Failed("too late"))])

    assert await database.fetchval("select count(*) from order_events where sent_time is null") == 2
    assert await database.fetchval("select count(last_error) from order_events") == 0
    await sent(events, again)
    assert await database.fetchval("select count(*) from order_events where sent_time is null") == 0


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


@pytest.mark.parametrize("lease_s", [A_WHILE, 0], ids=["its lease runs", "its lease is over"])
@pytest.mark.parametrize("age", [timedelta(0), timedelta(days=2)], ids=["young", "old"])
async def test_an_event_on_its_way_to_a_stream_that_was_lost_goes_to_the_new_one(
    database: Database, lease_s: float, age: timedelta
) -> None:
    events = SqlEvents(database)
    await events.stream_created(MONDAY)
    await placed(database)
    await database.execute("update order_events set create_time = now() - $1::interval", age)
    under_way = await events.claim_events(100, lease_s)

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
async def told(database: Database, nats: NatsServer, replicas: int = 1) -> AsyncIterator[list[Message]]:
    """Relays and a reader at work."""
    read: list[Message] = []

    async def handle(messages: Sequence[Message]) -> None:
        read.extend(messages)

    buses = [await Bus.connect(nats.url, "test") for _ in range(replicas)]
    running = [
        *(asyncio.create_task(Worker(relay(database, bus), poll_s=0.05).run()) for bus in buses),
        asyncio.create_task(buses[0].consume(STREAM, "reader", EVENT_TYPES, handle)),
    ]
    try:
        yield read
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for bus in buses:
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


@pytest.mark.parametrize("analyzed", ["never", "while nothing waited", "while all waited"])
async def test_a_claim_of_many_events_looks_at_few(postgres: Postgres, analyzed: str) -> None:
    async with postgres.database("services.order") as database:
        await database.execute(FILL, 5_000, 4)
        if analyzed == "while nothing waited":
            await database.execute("vacuum analyze order_events")
        await SqlEvents(database).stream_created(TUESDAY)
        for _ in range(4):  # As many replicas are at it.
            await SqlEvents(database).claim_events(64)
        await database.execute(
            "update order_events set claimed_until = now() + interval '1 hour' where get_byte(payload, 3) < 128"
        )
        if analyzed == "while all waited":
            await database.execute("vacuum analyze order_events")

        for plans in ("force_custom_plan", "force_generic_plan"):
            steps = await plan(database, CLAIM_EVENTS, 64, A_WHILE, plans=plans)
            assert {step.index for step in steps if "Scan" in step.kind} <= {
                None,
                "order_events_unsent",
                "order_events_pkey",
            }
            read = max(step.rows + step.filtered for step in steps)
            assert read < 2_000, "of 20,000: those that wait for what others are sending"


async def test_a_stream_that_is_lost_in_the_midst_of_it_ends_with_every_event_in_order(
    database: Database, nats: NatsServer
) -> None:
    nats.wipe()
    await database.execute(FILL, 300, 2)
    await database.execute("update order_events set sent_time = null, claimed_until = create_time")

    async with told(database, nats, replicas=2) as read:

        async def some() -> bool:
            return len(read) > 100

        async def all_are_sent() -> bool:
            return not await database.fetchval("select count(*) from order_events where sent_time is null")

        await eventually(some, "some are read")
        nats.wipe()
        await eventually(all_are_sent, "all are marked")

    by_order: dict[bytes, list[int]] = {}
    for message in await stored(nats, 600):
        by_order.setdefault(message.data[:4], []).append(message.data[-1])
    assert len(by_order) == 300
    assert {tuple(dict.fromkeys(versions)) for versions in by_order.values()} == {(1, 2)}


async def stored(nats: NatsServer, most: int) -> list[Message]:
    """What the stream has, in its order."""
    found: list[Message] = []

    async def handle(messages: Sequence[Message]) -> None:
        found.extend(messages)

    async def all_of_it() -> bool:
        return len({message.headers["ce-id"] for message in found}) >= most

    bus = await Bus.connect(nats.url, "test")
    reading = asyncio.create_task(bus.consume(STREAM, "auditor", EVENT_TYPES, handle))
    try:
        await eventually(all_of_it, f"{most} events are in the stream")
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await bus.close()
    return found


@asynccontextmanager
async def replica(database: Database, nats: NatsServer, lease_s: float = A_WHILE) -> AsyncIterator[Relay[ClaimedEvent]]:
    """One that does its steps when it is told."""
    bus = await Bus.connect(nats.url, "test")

    async def connected() -> bool:
        return bus.connected

    await eventually(connected, "the replica is connected")
    try:
        yield Relay(
            SqlEvents(database), bus, stream=STREAM, subjects=EVENT_TYPES, source="/shop/order", lease_s=lease_s
        )
    finally:
        await bus.close()


async def test_a_replica_that_was_frozen_after_it_sent_marks_nothing_when_it_wakes_up(
    database: Database, nats: NatsServer
) -> None:
    nats.wipe()
    one = await placed(database)
    async with replica(database, nats) as frozen, replica(database, nats) as other:
        [claimed] = await frozen.claim(64)
        assert await frozen.act([claimed]) == [None]
        await let_leases_end(database)
        [again] = await other.claim(64)

        await frozen.settle([(claimed, None)])

        assert await database.fetchval("select count(sent_time) from order_events") == 0
        await rejected(database, one)
        assert await frozen.claim(64) == [], "what came later waits for the other one"
        await other.settle([(again, outcome) for outcome in await other.act([again])])
        [later] = await frozen.claim(64)
        assert await frozen.act([later]) == [None]

    messages = await stored(nats, 2)
    assert [message.headers["ce-type"] for message in messages] == [EVENT_TYPES[0], later.type]


async def test_a_replica_that_was_frozen_before_it_sent_sends_nothing_when_it_wakes_up(
    database: Database, nats: NatsServer
) -> None:
    nats.wipe()
    await placed(database)
    async with replica(database, nats, lease_s=PUBLISH_S) as frozen, replica(database, nats) as other:
        [claimed] = await frozen.claim(64)
        await let_leases_end(database)
        [again] = await other.claim(64)

        [outcome] = await frozen.act([claimed])
        await frozen.settle([(claimed, outcome)])

        assert isinstance(outcome, Failed)
        await sent(SqlEvents(database), [again])
        await placed(database, "r2")
        [next_one] = await other.claim(64)
        assert await other.act([next_one]) == [None]
    assert [message.headers["ce-id"] for message in await stored(nats, 1)] == [str(next_one.id)]


async def test_what_was_claimed_before_nats_was_wiped_is_not_sent_ahead_of_what_was_lost(
    database: Database, nats: NatsServer
) -> None:
    one = await placed(database)
    async with replica(database, nats) as slow, replica(database, nats) as other:
        await sent(SqlEvents(database), [first := (await slow.claim(64))[0]])
        await rejected(database, one)
        [second] = await slow.claim(64)
        nats.wipe()

        async def other_one_has_the_lost_event() -> bool:
            with suppress(BusUnavailable):
                return [(event.id, event.resends) for event in await other.claim(64)] == [(first.id, 1)]
            return False

        async def connected_again() -> bool:
            return slow._bus.connections == 2

        await eventually(other_one_has_the_lost_event, "the other one has found the new stream")
        await eventually(connected_again, "so would the slow one")
        assert isinstance((await slow.act([second]))[0], Failed)


async def test_times_are_kept_to_the_microsecond(database: Database) -> None:
    at = NOON + timedelta(microseconds=123_457)
    one = order(at=at)

    await SqlOrders(database, committed=lambda: None).add(one, OrderPlaced(one), "r1")

    [event] = await SqlEvents(database).claim_events(1)
    assert events_pb2.OrderPlaced.FromString(event.payload).order.create_time.ToDatetime(UTC) == at
