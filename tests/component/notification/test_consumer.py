"""From the stream into the table: a real NATS, a real database, and either of them away for a while."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import asyncpg
import nats
import pytest
from nats.js.api import ConsumerInfo

from services.chassis.bus.access import BusUnavailable
from services.chassis.bus.connection import Bus
from services.chassis.bus.pulling import Message
from services.chassis.database import Database
from services.notification.events import CONSUMER, STREAM, SUBJECTS, OrderEvents
from services.notification.letters import letter
from services.notification.store import SqlNotifications
from services.notification.use_cases import Hearing
from tests.support.nats import NatsServer
from tests.support.notification import order_cancelled, order_placed, order_rejected
from tests.support.postgres import Postgres
from tests.support.waiting import DEADLINE_S, eventually

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


@pytest.fixture
async def bus(stream_server: NatsServer) -> AsyncIterator[Bus]:
    stream_server.wipe()
    bus = await Bus.connect(stream_server.url, "test")

    async def connected() -> bool:
        return bus.connected

    await eventually(connected, "NATS is reached")
    yield bus
    await bus.close()


@asynccontextmanager
async def consuming(bus: Bus, events: OrderEvents) -> AsyncIterator[None]:
    task = asyncio.create_task(bus.consume(STREAM, CONSUMER, SUBJECTS, events.handle))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def events_into(database: Database) -> OrderEvents:
    return OrderEvents(Hearing(SqlNotifications(database), letter, lambda: None))


async def make_stream(bus: Bus) -> None:
    await bus.ensure_stream(STREAM, SUBJECTS)


async def say(bus: Bus, payload: bytes, type: str = "shop.order.v1.OrderPlaced", id: str = "1", copy: str = "") -> None:
    """As Order's relay does; a resend has another Nats-Msg-Id."""
    headers = {"ce-id": id, "ce-type": type, "traceparent": TRACEPARENT, "Nats-Msg-Id": f"{id}{copy}"}
    await bus.publish(type, payload, headers)


async def kept(database: Database, number: int) -> list[asyncpg.Record]:
    """The rows, once there are so many."""

    async def look() -> list[asyncpg.Record]:
        rows = await database.fetch("select * from notifications order by create_time")
        assert len(rows) == number, f"{len(rows)} rows"
        return rows

    return await eventually(look, f"{number} notifications")


@asynccontextmanager
async def consumer(server: NatsServer) -> AsyncIterator[Callable[[], Awaitable[ConsumerInfo]]]:
    """Asks what JetStream knows of the consumer."""
    client = await nats.connect(server.url)
    try:
        yield lambda: client.jetstream().consumer_info(STREAM, CONSUMER)
    finally:
        await client.close()


async def all_acknowledged(server: NatsServer) -> None:
    """Nothing is left that would come again."""
    async with consumer(server) as info:

        async def look() -> bool:
            now = await info()
            return now.num_pending == 0 and now.num_ack_pending == 0

        await eventually(look, "all is acknowledged")


async def test_an_event_becomes_a_notification_in_its_trace(
    bus: Bus, stream_server: NatsServer, database: Database
) -> None:
    await make_stream(bus)
    placed = order_placed()

    async with consuming(bus, events_into(database)):
        await say(bus, placed.SerializeToString())
        [row] = await kept(database, 1)
        await all_acknowledged(stream_server)

    assert f"orders/{row['order_id']}" == placed.order.name
    assert (row["kind"], row["version"], row["state"], row["event_id"]) == ("ORDER_PLACED", 1, "READY", "1")
    assert row["traceparent"] == TRACEPARENT


async def test_an_event_that_is_sent_again_and_again_has_its_effect_once(
    bus: Bus, stream_server: NatsServer, database: Database
) -> None:
    await make_stream(bus)
    placed = order_placed()

    async with consuming(bus, events_into(database)):
        for copy in range(20):
            await say(bus, placed.SerializeToString(), copy=f"/{copy}")
        await say(bus, order_rejected(placed).SerializeToString(), "shop.order.v1.OrderRejected", "2")
        await say(bus, order_cancelled(placed).SerializeToString(), "shop.order.v1.OrderCancelled", "3")
        rows = await kept(database, 3)
        await all_acknowledged(stream_server)

    assert [row["kind"] for row in rows] == ["ORDER_PLACED", "ORDER_REJECTED", "ORDER_CANCELLED"]


async def test_poison_and_strangers_stop_nobody(bus: Bus, stream_server: NatsServer, database: Database) -> None:
    await make_stream(bus)
    broken_rule = order_placed()
    broken_rule.ClearField("recipient")
    unkeepable = order_placed()
    unkeepable.order.customer = "customers/\0"

    async with consuming(bus, events_into(database)):
        await say(bus, b"\xff\xff\xff", id="poison")
        await say(bus, broken_rule.SerializeToString(), id="broken rule")
        await say(bus, unkeepable.SerializeToString(), id="unkeepable")
        await say(bus, b"\xff\xff\xff", "shop.order.v1.OrderOfNextYear", id="unknown")
        await say(bus, order_placed().SerializeToString(), id="good")
        [row] = await kept(database, 1)
        await all_acknowledged(stream_server)

    assert row["event_id"] == "good"
    dead = await database.fetch("select event_id, event_type, headers, reason from dead_letters")
    assert {row["event_id"] for row in dead} == {"poison", "broken rule", "unkeepable"}
    assert {row["event_type"] for row in dead} == {"shop.order.v1.OrderPlaced"}
    assert {row["headers"]["traceparent"] for row in dead} == {TRACEPARENT}
    assert all(row["reason"] for row in dead)


async def test_while_the_database_is_away_events_wait_in_the_stream_and_none_becomes_a_dead_letter(
    bus: Bus, stream_server: NatsServer, database: Database, postgres: Postgres
) -> None:
    """Acknowledged is what was committed: with the acknowledgement first, these events would be gone."""
    await make_stream(bus)
    tries = asyncio.Semaphore(0)

    class Watched(OrderEvents):
        async def handle(self, messages: Sequence[Message]) -> None:
            tries.release()
            await super().handle(messages)

    name = await database.fetchval("select current_database()")
    admin = await asyncpg.connect(postgres.url("postgres"))
    try:
        await admin.execute(f"alter database {name} allow_connections false")
        await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
        await asyncio.gather(*(say(bus, order_placed().SerializeToString(), id=str(n)) for n in range(300)))

        events = Watched(Hearing(SqlNotifications(database), letter, lambda: None))
        async with consuming(bus, events), asyncio.timeout(DEADLINE_S):
            for _ in range(6):
                await tries.acquire()
            async with consumer(stream_server) as info:
                now = await info()
            assert now.ack_floor is not None
            assert now.ack_floor.stream_seq == 0
            assert now.num_pending is not None
            assert now.num_pending >= 300 - 2 * 64  # what is in hand is tried again, nothing new is fetched
            await admin.execute(f"alter database {name} allow_connections true")
            await kept(database, 300)
            await all_acknowledged(stream_server)
    finally:
        await admin.close()

    assert not await database.fetch("select * from dead_letters")


async def test_the_stream_may_come_later_and_may_be_lost(
    bus: Bus, stream_server: NatsServer, database: Database
) -> None:
    async with consuming(bus, events_into(database)):
        await make_stream(bus)
        await say(bus, order_placed().SerializeToString(), id="before")
        await kept(database, 1)
        await asyncio.to_thread(stream_server.wipe)

        async def said_again() -> bool:
            with suppress(BusUnavailable):
                await make_stream(bus)
                await say(bus, order_placed().SerializeToString(), id="after")
                return True
            return False

        await eventually(said_again, "NATS is back")
        await kept(database, 2)
