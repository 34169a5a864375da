"""What the settler claims and writes, over a real table."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
import pytest
from shop.order.v1 import events_pb2, order_pb2

from services.chassis.database import Database
from services.chassis.tracing import current_traceparent, span
from services.chassis.worker import Failed, Worker
from services.order.contract import event_message, order_message
from services.order.domain import InventoryUnavailable, Order, OrderCancelled, OrderPlaced, OrderRejected, State
from services.order.events import SqlEvents
from services.order.store import Claimed, SettlerJob, SqlOrders
from services.order.use_cases import Outcome, Settled, Settlement, Settling
from tests.support.waiting import DEADLINE_S, eventually
from tests.unit.order.fakes import NOON, ONE_O_CLOCK, TERMS, Warehouse, order

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
TRACE_OF_THE_CANCEL = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


async def nothing(orders: Sequence[Order]) -> Sequence[Settlement]:
    raise AssertionError(orders)


def settler(
    database: Database, act: Callable[[Sequence[Order]], Awaitable[Sequence[Settlement]]] = nothing
) -> SettlerJob:
    return SettlerJob(database, act, committed=lambda: None)


async def placed(database: Database, request_id: str = "r1") -> Order:
    one = order(request_id=request_id)
    return await SqlOrders(database, committed=lambda: None).add(one, OrderPlaced(one), request_id)


async def the_order(database: Database, id: object) -> dict[str, object]:
    row = await database.fetchrow("select * from orders where id = $1", id)
    assert row
    return dict(row)


async def let_leases_end(database: Database) -> None:
    await database.execute("update orders set claimed_until = now() - interval '1 s'")


async def test_an_order_is_claimed_once(database: Database) -> None:
    ids = {(await placed(database, f"r{number}")).id for number in range(20)}

    batches = await asyncio.gather(*(settler(database).claim(5) for _ in range(8)))

    claimed = [item.order.id for batch in batches for item in batch]
    assert len(claimed) == len(set(claimed))
    rest = [item.order.id for item in await settler(database).claim(100)]
    assert {*claimed, *rest} == ids


async def test_an_order_that_somebody_else_is_changing_is_passed_over(database: Database) -> None:
    busy, other = await placed(database), await placed(database, "r2")
    connection = await asyncpg.connect(database._url)
    try:
        await connection.execute("begin")
        await connection.execute("select from orders where id = $1 for update", busy.id)

        async with asyncio.timeout(DEADLINE_S):
            claimed = await settler(database).claim(5)
    finally:
        await connection.close()

    assert [item.order for item in claimed] == [other]


async def test_what_a_dead_replica_has_claimed_is_left_to_the_others(database: Database) -> None:
    one = await placed(database)
    await settler(database).claim(5)
    assert not await settler(database).claim(5)

    await let_leases_end(database)

    assert [item.order for item in await settler(database).claim(5)] == [one]


async def test_a_settled_order_is_never_claimed_again(database: Database) -> None:
    one = await placed(database)
    [claimed] = await settler(database).claim(5)

    await settler(database).settle([(claimed, Settled())])

    row = await the_order(database, one.id)
    assert row["settled_time"] is not None
    assert row["version"] == 1
    await let_leases_end(database)
    assert not await settler(database).claim(5)


async def test_a_failure_is_written_down_and_tried_again_after_a_pause(database: Database) -> None:
    one = await placed(database)
    [claimed] = await settler(database).claim(5)

    await settler(database).settle([(claimed, Failed("INVENTORY_UNAVAILABLE"))])

    row = await the_order(database, one.id)
    assert (row["last_error"], row["attempts"]) == ("INVENTORY_UNAVAILABLE", 1)
    assert await eventually(lambda: settler(database).claim(5), "the order is claimed again")


async def test_a_rejection_is_the_next_version_with_its_event_in_the_trace_of_the_first(database: Database) -> None:
    one = await placed(database)
    await database.execute("update order_events set traceparent = '00-trace'")
    [claimed] = await settler(database).claim(5)

    await settler(database).settle([(claimed, OrderRejected(one.reject("OUT_OF_STOCK", ONE_O_CLOCK)))])

    orders = SqlOrders(database, committed=lambda: None)
    rejected = await orders.get(one.id, "ann")
    assert (rejected.state, rejected.state_reason, rejected.version) == (State.REJECTED, "OUT_OF_STOCK", 2)
    assert (rejected.create_time, rejected.update_time) == (NOON, ONE_O_CLOCK)
    first, second = await database.fetch("select * from order_events order by version")
    assert (second["version"], second["type"]) == (2, "shop.order.v1.OrderRejected")
    assert second["event_id"] != first["event_id"]
    assert second["traceparent"] == "00-trace"
    event = events_pb2.OrderRejected.FromString(second["payload"])
    assert (event.version, event.recipient, event.order.etag) == (2, "ann@example.com", '"2"')
    [again] = await settler(database).claim(5)
    assert again.order == rejected


async def test_a_pending_order_has_a_version_that_nobody_is_told_of_and_is_told_of_when_it_is_decided(
    database: Database,
) -> None:
    pending = order().pending()
    await SqlOrders(database, committed=lambda: None).add(pending, None, "r1")
    assert not await SqlEvents(database).claim_events(5)
    [claimed] = await settler(database).claim(5)

    placed = pending.accept(ONE_O_CLOCK)
    await settler(database).settle([(claimed, OrderPlaced(placed))])

    first, second = await database.fetch("select * from order_events order by version")
    assert (first["type"], first["event_id"]) == (None, None)
    assert order_pb2.Order.FromString(first["payload"]) == order_message(pending)
    assert second["type"] == "shop.order.v1.OrderPlaced"
    assert events_pb2.OrderPlaced.FromString(second["payload"]) == event_message(OrderPlaced(placed))
    assert [event.version for event in await SqlEvents(database).claim_events(5)] == [2], "no event waits for the first"
    [again] = await settler(database).claim(5)
    assert again.order == placed, "its hold is to be confirmed"


async def test_a_decision_that_comes_after_the_customer_has_cancelled_is_nobodys(database: Database) -> None:
    pending, orders = order().pending(), SqlOrders(database, committed=lambda: None)
    await orders.add(pending, None, "r1")
    [claimed] = await settler(database).claim(5)
    cancelled = pending.cancel(ONE_O_CLOCK)
    await orders.change(OrderCancelled(cancelled))

    await settler(database).settle([(claimed, OrderPlaced(pending.accept(ONE_O_CLOCK)))])

    assert await orders.get(pending.id, "ann") == cancelled
    assert [event.version for event in await SqlEvents(database).claim_events(5)] == [2]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InventoryUnavailable(), "INVENTORY_UNAVAILABLE"),
        (ValueError("nobody expected it"), "ValueError: nobody expected it"),
    ],
    ids=["away", "unexpected"],
)
async def test_who_waits_for_inventory_backs_off_up_to_a_bound_and_the_others_are_settled_meanwhile(
    database: Database, error: Exception, told: str
) -> None:
    stock, pending = Warehouse(), order(request_id="away").pending()
    stock.away_for = {pending.id: error}
    await SqlOrders(database, committed=lambda: None).add(pending, None, "away")
    settling = settler(database, Settling(stock, lambda: TERMS, lambda: NOON).settle)
    pauses: list[float] = []

    for number in range(12):
        other = await placed(database, f"r{number}")
        stock.held[other.id] = "HELD"
        both = await settling.claim(5)
        await settling.settle(list(zip(both, await settling.act(both), strict=True)))
        assert {item.order.id for item in both} == {pending.id, other.id}
        assert (await the_order(database, other.id))["settled_time"], "in the same round"
        assert (await the_order(database, pending.id))["last_error"] == told
        assert not await settling.claim(5)
        pause = "select extract(epoch from claimed_until - now()) from orders where settled_time is null"
        pauses.append(float(await database.fetchval(pause)))
        await let_leases_end(database)

    assert pauses[0] < 0.2
    assert pauses[4] > 1
    assert all(8 < pause <= 12 for pause in pauses[8:])


@pytest.mark.parametrize("outcome", ["settled", "rejected"])
async def test_an_order_that_changed_meanwhile_is_not_touched(database: Database, outcome: str) -> None:
    one = await placed(database)
    [claimed] = await settler(database).claim(5)
    rejected = OrderRejected(one.reject("OUT_OF_STOCK", ONE_O_CLOCK))
    await settler(database).settle([(claimed, rejected)])
    before = await the_order(database, one.id)

    await settler(database).settle([(claimed, Settled() if outcome == "settled" else rejected)])

    assert await the_order(database, one.id) == before
    assert await database.fetchval("select count(*) from order_events") == 2


async def test_a_rejection_that_comes_after_another_replica_has_settled_the_order_is_nobodys(
    database: Database,
) -> None:
    one = await placed(database)
    [claimed] = await settler(database).claim(5)
    await let_leases_end(database)
    [by_another] = await settler(database).claim(5)
    await settler(database).settle([(by_another, Settled())])

    await settler(database).settle([(claimed, OrderRejected(one.reject("OUT_OF_STOCK", ONE_O_CLOCK)))])

    assert (await the_order(database, one.id))["state"] == "PLACED"


@pytest.mark.parametrize("before", ["claimed", "failed", "settled"])
async def test_a_cancelled_order_is_claimed_at_once_and_who_settles_its_version_before_does_not_touch_it(
    database: Database, before: str
) -> None:
    one = await placed(database)
    [claimed] = await settler(database).claim(5)
    if before != "claimed":
        await settler(database).settle([(claimed, Settled() if before == "settled" else Failed("no"))])
    cancelled = one.cancel(ONE_O_CLOCK)

    await SqlOrders(database, committed=lambda: None).change(OrderCancelled(cancelled))
    await settler(database).settle([(claimed, Settled())])

    [again] = await settler(database).claim(5)
    assert again.order == cancelled


async def test_an_order_is_settled_in_the_trace_of_its_last_change_several_in_that_of_the_first(
    database: Database,
) -> None:
    one, other = await placed(database), await placed(database, "r2")
    seen: list[str | None] = []

    async def look(orders: Sequence[Order]) -> Sequence[Settlement]:
        seen.append(current_traceparent())
        return [Settled() for _ in orders]

    settling = settler(database, look)
    await database.execute("update order_events set traceparent = $1", TRACE)
    await settling.act(both := await settling.claim(5))
    await settling.settle([(claimed, Settled()) for claimed in both])
    with span("cancel", parent=TRACE_OF_THE_CANCEL):
        await SqlOrders(database, committed=lambda: None).change(OrderCancelled(one.cancel(ONE_O_CLOCK)))
    await settling.act(await settling.claim(5))

    assert {claimed.order.id for claimed in both} == {one.id, other.id}
    assert seen == [TRACE, TRACE_OF_THE_CANCEL]


async def test_a_failure_after_the_lease_is_nobodys(database: Database) -> None:
    one = await placed(database)
    [claimed] = await settler(database).claim(5)
    await let_leases_end(database)
    [by_another] = await settler(database).claim(5)

    await settler(database).settle([(claimed, Failed("too late"))])

    row = await the_order(database, one.id)
    assert (row["claimed_until"], row["last_error"]) == (by_another.lease, None)


async def test_orders_are_settled_by_many_replicas_until_none_is_left(database: Database) -> None:
    stock = Warehouse()
    ids = [(await placed(database, f"r{number}")).id for number in range(30)]
    stock.held = {id: "EXPIRED" if number % 3 == 0 else "HELD" for number, id in enumerate(ids)}
    stock.short = {"mug"}
    settling = Settling(stock, lambda: TERMS, lambda: ONE_O_CLOCK)

    async def all_settled() -> bool:
        return not await database.fetchval("select count(*) from orders where settled_time is null")

    async with asyncio.TaskGroup() as replicas:
        running = [
            replicas.create_task(
                Worker[Claimed, Outcome](settler(database, settling.settle), batch=4, poll_s=0.05).run()
            )
            for _ in range(3)
        ]
        await eventually(all_settled, "every order is settled")
        for task in running:
            task.cancel()

    states = {row["id"]: row["state"] for row in await database.fetch("select id, state from orders")}
    assert states == {id: "REJECTED" if number % 3 == 0 else "PLACED" for number, id in enumerate(ids)}
    assert set(stock.held.values()) == {"CONFIRMED", "RELEASED"}
