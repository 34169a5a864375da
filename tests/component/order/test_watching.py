"""WatchOrder as its callers see it: each version once and in order, on PostgreSQL; and what watching costs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, override

import asyncpg
import grpc
import pytest
from shop.order.v1 import order_pb2 as pb
from shop.order.v1.config_pb2 import OrderConfig
from shop.order.v1.order_pb2_grpc import OrderServiceStub, add_OrderServiceServicer_to_server
from structlog.testing import capture_logs

from services.chassis.database import Database, Record
from services.chassis.interceptors import time_left
from services.order.api import OrderApi
from services.order.contract import event_id, event_message, order_message
from services.order.domain import Order, OrderCancelled, OrderPlaced, OrderRejected
from services.order.store import SqlOrders
from services.order.use_cases import Ordering
from services.order.watching import Watching
from tests.support.issuer import Issuer
from tests.support.postgres import Postgres
from tests.support.refused import Refused, outcome, violations
from tests.support.serving import Metadata, bearing, serving_at
from tests.support.waiting import DEADLINE_S, eventually
from tests.unit.order.fakes import NOON, ONE_O_CLOCK, SHELF, TERMS, Catalogue, Warehouse, order

NOTHING = "orders/00000000-0000-4000-8000-00000000000a"
NOT_FOUND = grpc.StatusCode.NOT_FOUND
TICK_S = 0.2


class Counted(Database):
    """Counts what is asked of order_events."""

    looks = rows = watched = 0
    """`watched`: for how many orders the last time."""

    @override
    async def fetch(self, sql: str, *args: Any, **options: Any) -> list[Record]:
        found = await super().fetch(sql, *args, **options)
        if "order_events" in sql:
            self.looks, self.rows, self.watched = self.looks + 1, self.rows + len(found), len(args[0])
        return found


class Replica:
    """An instance of Order as watchers meet it."""

    def __init__(self, address: str, database: Counted, orders: SqlOrders) -> None:
        self.address, self.database, self.orders = address, database, orders


class Watcher:
    """Of one order."""

    def __init__(self, channel: grpc.aio.Channel, name: str, metadata: Metadata, after: str = "") -> None:
        request = pb.WatchOrderRequest(name=name, after_etag=after)
        self.call = OrderServiceStub(channel).WatchOrder(request, metadata=metadata, timeout=DEADLINE_S)
        self._answers = aiter(self.call)

    async def next(self) -> pb.Order:
        return (await anext(self._answers)).order

    async def rest(self) -> list[pb.Order]:
        """Until it ends, with OK."""
        return [answer.order async for answer in self._answers]


@pytest.fixture
async def url(postgres: Postgres) -> str:
    return await postgres.make("services.order")


@asynccontextmanager
async def replica_of(url: str, issuer: Issuer, tick_s: float = TICK_S) -> AsyncIterator[Replica]:
    database = await Counted.connect(url)
    orders = SqlOrders(database, lambda: None, lambda: watching.wake())  # noqa: PLW0108  it comes later
    watching = Watching(database, orders, tick_s=tick_s)
    ordering = Ordering(
        orders, Catalogue(dict(SHELF)), Warehouse(), lambda: TERMS, lambda: datetime.now(UTC), time_left
    )
    servicer = OrderApi(ordering, orders, watching, OrderConfig)
    looking = asyncio.create_task(watching.run())
    try:
        async with serving_at(add_OrderServiceServicer_to_server, servicer, issuer) as address:
            yield Replica(address, database, orders)
    finally:
        looking.cancel()
        await database.close()


@pytest.fixture
async def replica(url: str, issuer: Issuer) -> AsyncIterator[Replica]:
    async with replica_of(url, issuer) as replica:
        yield replica


@pytest.fixture
async def channel(replica: Replica) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(replica.address) as channel:
        yield channel


@pytest.fixture
def ann(issuer: Issuer) -> Metadata:
    return bearing(issuer.token("ann", ["customer"]))


async def keep(replica: Replica, request_id: str = "r1", *, pending: bool = False) -> Order:
    placed = order(request_id=request_id)
    if pending:
        return await replica.orders.add(placed.pending(), None, request_id)
    return await replica.orders.add(placed, OrderPlaced(placed), request_id)


def name_of(order: Order) -> str:
    return f"orders/{order.id}"


# --- what a watcher hears


async def test_a_watcher_gets_the_present_and_then_each_version_until_the_end(
    replica: Replica, channel: grpc.aio.Channel, ann: Metadata
) -> None:
    pending = await keep(replica, pending=True)
    watcher = Watcher(channel, name_of(pending), ann)

    assert await watcher.next() == order_message(pending)
    placed = pending.accept(ONE_O_CLOCK)
    await replica.orders.change(OrderPlaced(placed))
    assert await watcher.next() == order_message(placed)
    cancelled = placed.cancel(ONE_O_CLOCK)
    await replica.orders.change(OrderCancelled(cancelled))
    assert await watcher.rest() == [order_message(cancelled)]


async def test_who_comes_back_gets_all_that_follows_what_they_have(
    replica: Replica, channel: grpc.aio.Channel, ann: Metadata
) -> None:
    pending = await keep(replica, pending=True)
    placed = pending.accept(ONE_O_CLOCK)
    rejected = placed.reject("OUT_OF_STOCK", ONE_O_CLOCK)
    await replica.orders.change(OrderPlaced(placed))
    await replica.orders.change(OrderRejected(rejected))
    name, said = name_of(pending), [order_message(placed), order_message(rejected)]

    assert await Watcher(channel, name, ann).rest() == said[1:]
    assert await Watcher(channel, name, ann, '"1"').rest() == said
    assert await Watcher(channel, name, ann, '"2"').rest() == said[1:]
    assert await Watcher(channel, name, ann, '"3"').rest() == []


async def test_a_version_that_nobody_is_told_of_is_a_version(
    replica: Replica, channel: grpc.aio.Channel, ann: Metadata
) -> None:
    pending = await keep(replica, pending=True)
    version = "update order_events set version = 2 where order_id = $1"
    await replica.database.execute(version, pending.id)
    await replica.database.execute("update orders set version = 2 where id = $1", pending.id)

    assert await Watcher(channel, name_of(pending), ann, '"1"').next() == order_message(pending)


async def test_an_event_that_is_newer_than_this_process_has_its_order(
    replica: Replica, channel: grpc.aio.Channel, ann: Metadata
) -> None:
    placed = await keep(replica)
    watcher = Watcher(channel, name_of(placed), ann, '"1"')
    later = placed.cancel(ONE_O_CLOCK)
    await tell(replica, later, "shop.order.v1.OrderForgotten")

    assert await watcher.next() == order_message(later)


async def tell(replica: Replica, later: Order, type: str) -> None:
    """As another replica does: nobody is woken here."""
    await replica.database.execute(
        "insert into order_events (order_id, version, type, event_id, payload) values ($1, $2, $3, $4, $5)",
        later.id, later.version, type, event_id(later), event_message(OrderCancelled(later)).SerializeToString(),
    )  # fmt: skip


async def test_what_another_replica_commits_is_heard_of_too(
    url: str, replica: Replica, channel: grpc.aio.Channel, issuer: Issuer, ann: Metadata
) -> None:
    placed = await keep(replica)
    watcher = Watcher(channel, name_of(placed), ann)
    await watcher.next()
    async with (
        replica_of(url, issuer) as other,
        grpc.aio.insecure_channel(other.address) as elsewhere,
    ):
        answer = await OrderServiceStub(elsewhere).CancelOrder(
            pb.CancelOrderRequest(name=name_of(placed)), metadata=ann
        )

    assert await watcher.rest() == [answer.order]


async def test_what_is_committed_here_is_heard_of_at_once(url: str, issuer: Issuer, ann: Metadata) -> None:
    async with (
        replica_of(url, issuer, tick_s=2 * DEADLINE_S) as replica,
        grpc.aio.insecure_channel(replica.address) as channel,
    ):
        placed = await keep(replica)
        watcher = Watcher(channel, name_of(placed), ann)
        await watcher.next()
        await waiting(replica, 1)
        await OrderServiceStub(channel).CancelOrder(pb.CancelOrderRequest(name=name_of(placed)), metadata=ann)

        assert (await watcher.next()).state == pb.Order.STATE_CANCELLED


async def waiting(replica: Replica, looks: int) -> None:
    """Returns when order_events has been looked at so often."""

    async def looked() -> bool:
        return replica.database.looks >= looks

    await eventually(looked, f"{looks} looks")


# --- who may, and what is no request


async def test_somebody_elses_order_and_none_are_not_found(
    replica: Replica, channel: grpc.aio.Channel, issuer: Issuer, ann: Metadata
) -> None:
    name, bob = name_of(await keep(replica)), bearing(issuer.token("bob", ["customer"]))

    assert await outcome(Watcher(channel, name, bob).rest()) == Refused(NOT_FOUND, "ORDER_NOT_FOUND", {"order": name})
    assert await outcome(Watcher(channel, NOTHING, ann).rest()) == Refused(
        NOT_FOUND, "ORDER_NOT_FOUND", {"order": NOTHING}
    )


@pytest.mark.parametrize("etag", ["1", '"0"', '"-1"', '"x"', '""', '"1', '"1"2', '"1" ', '"9999999999"', "*", '"2"'])
async def test_an_etag_that_the_order_has_not_had_is_refused(
    replica: Replica, channel: grpc.aio.Channel, ann: Metadata, etag: str
) -> None:
    name = name_of(await keep(replica))

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await Watcher(channel, name, ann, etag).rest()

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [field for field, _ in violations(refusal.value)] == ["after_etag"]


# --- what it costs


async def test_many_watchers_cost_one_query_per_tick_and_none_when_they_have_gone(
    replica: Replica, channel: grpc.aio.Channel, ann: Metadata
) -> None:
    names = [name_of(await keep(replica, f"r{number}")) for number in range(50)]
    async with (
        grpc.aio.insecure_channel(replica.address, [("grpc.use_local_subchannel_pool", 1)]) as second,
        grpc.aio.insecure_channel(replica.address, [("grpc.use_local_subchannel_pool", 1)]) as third,
    ):
        channels = channel, second, third
        watchers = [Watcher(channels[number % 3], names[number % 50], ann) for number in range(300)]
        await asyncio.gather(*(watcher.next() for watcher in watchers))

        before, began = replica.database.looks, asyncio.get_running_loop().time()
        await waiting(replica, before + 5)
        passed = asyncio.get_running_loop().time() - began
        assert 5 <= replica.database.looks - before <= passed / TICK_S + 1

        for name in names:
            await OrderServiceStub(channel).CancelOrder(pb.CancelOrderRequest(name=name), metadata=ann)
        heard = await asyncio.gather(*(watcher.rest() for watcher in watchers))
        assert [[each.state for each in versions] for versions in heard] == [[pb.Order.STATE_CANCELLED]] * 300

    after = replica.database.looks
    await asyncio.sleep(3 * TICK_S)
    assert replica.database.looks <= after + 1


async def test_who_leaves_is_asked_for_no_more(replica: Replica, channel: grpc.aio.Channel, ann: Metadata) -> None:
    watchers = [Watcher(channel, name_of(await keep(replica, request)), ann) for request in ("r1", "r2")]
    await asyncio.gather(*(watcher.next() for watcher in watchers))

    async def watched(many: int) -> bool:
        return replica.database.watched == many

    await eventually(lambda: watched(2), "both are asked for")
    watchers[0].call.cancel()
    await eventually(lambda: watched(1), "one is asked for")


async def test_who_does_not_read_holds_up_nobody_and_takes_no_memory(url: str, issuer: Issuer, ann: Metadata) -> None:
    async with replica_of(url, issuer, tick_s=0.02) as replica, grpc.aio.insecure_channel(replica.address) as channel:
        placed, other = await keep(replica), await keep(replica, "r2")
        # No order has so many versions, and so large ones, that a connection could not hold what nobody reads.
        await replica.database.execute(
            "insert into order_events (order_id, version, payload) select $1, n, $2 from generate_series(2, 300) n",
            placed.id, pb.Order(state_reason="x" * 50_000).SerializeToString(),
        )  # fmt: skip
        slow = Watcher(channel, name_of(placed), ann, '"1"')
        watcher = Watcher(channel, name_of(other), ann)
        await watcher.next()

        async def stuck() -> bool:
            before = replica.database.rows
            await asyncio.sleep(0.2)
            return replica.database.rows == before > 0

        await eventually(stuck, "what is not read is not asked for")
        assert replica.database.rows < 200
        await OrderServiceStub(channel).CancelOrder(pb.CancelOrderRequest(name=name_of(other)), metadata=ann)
        assert len(await watcher.rest()) == 1
        slow.call.cancel()


# --- when something is away


async def test_while_the_database_is_away_watchers_wait(
    postgres: Postgres, url: str, replica: Replica, channel: grpc.aio.Channel, ann: Metadata
) -> None:
    placed = await keep(replica)
    watcher = Watcher(channel, name_of(placed), ann)
    await watcher.next()
    database = url.rpartition("/")[2]
    server = await asyncpg.connect(postgres.url("postgres"))
    with capture_logs() as lines:
        await server.execute(f"alter database {database} allow_connections false")
        await server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", database)

        async def noticed() -> bool:
            return any(line["event"] == "watched orders cannot be looked at" for line in lines)

        await eventually(noticed, "the database is away")
        await server.execute(f"alter database {database} allow_connections true")
    await server.close()
    await tell(replica, placed.cancel(NOON), "shop.order.v1.OrderCancelled")

    assert len(await watcher.rest()) == 1
