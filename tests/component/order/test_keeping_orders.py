"""One suite for every implementation of the Orders port: in memory, and in PostgreSQL."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from services.chassis.database import Database
from services.order.domain import Order, OrderCancelled, OrderNotFound, OrderPlaced, OrderRejected
from services.order.ports import Orders
from services.order.store import SqlOrders
from tests.unit.order.fakes import ANN, BOB, MUG_AND_TEAPOT, MUGS, NOON, ONE_O_CLOCK, MemoryOrders, order


@pytest.fixture(params=["memory", "sql"])
def orders(request: pytest.FixtureRequest, database: Database) -> Orders:
    return MemoryOrders() if request.param == "memory" else SqlOrders(database, committed=lambda: None)


async def add(orders: Orders, placed: Order, request_id: str) -> Order:
    return await orders.add(placed, OrderPlaced(placed), request_id)


async def test_an_order_comes_back_as_it_was_kept(orders: Orders) -> None:
    placed = order(MUG_AND_TEAPOT)

    assert await add(orders, placed, "r1") == placed
    assert await orders.get(placed.id, "ann") == placed
    assert await orders.by_request("ann", "r1") == placed


async def test_an_order_that_nobody_is_told_of_is_kept_and_decides_for_its_request_all_the_same(orders: Orders) -> None:
    pending = order().pending()

    assert await orders.add(pending, None, "r1") == pending
    assert await add(orders, order(), "r1") == pending
    assert await orders.get(pending.id, "ann") == pending

    assert await orders.change(OrderPlaced(pending.accept(ONE_O_CLOCK)))
    assert await orders.by_request("ann", "r1") == pending.accept(ONE_O_CLOCK)


async def test_an_unknown_order_and_somebody_elses_cannot_be_told_apart(orders: Orders) -> None:
    placed = await add(orders, order(), "r1")

    for id, customer in ((placed.id, "bob"), (uuid4(), "ann")):
        with pytest.raises(OrderNotFound) as refusal:
            await orders.get(id, customer)
        assert refusal.value.facts == {"order": f"orders/{id}"}


async def test_a_request_that_placed_nothing_is_unknown(orders: Orders) -> None:
    await add(orders, order(), "r1")

    assert await orders.by_request("ann", "r2") is None
    assert await orders.by_request("bob", "r1") is None


async def test_the_second_order_of_a_request_is_not_kept(orders: Orders) -> None:
    first = await add(orders, order(), "r1")
    other = order(MUG_AND_TEAPOT)

    assert await add(orders, other, "r1") == first
    with pytest.raises(OrderNotFound):
        await orders.get(other.id, "ann")


@pytest.mark.parametrize("carts", ["equal", "different"])
async def test_of_many_at_once_one_is_kept_and_all_hear_of_it(orders: Orders, carts: str) -> None:
    # Many requests: without them the two unique keys of an order are hardly ever hit in the wrong order.
    requests = [f"r{number}" for number in range(20) for _ in range(40)]
    tries = [
        order(MUGS if carts == "equal" or number % 2 else MUG_AND_TEAPOT, request_id=request)
        for number, request in enumerate(requests)
    ]

    answers = await asyncio.gather(*map(add, [orders] * len(tries), tries, requests))

    kept = await orders.newest("ann", 100, None)
    assert len(kept) == 20
    assert {one.id for one in kept} == {answer.id for answer in answers}


async def test_a_change_and_what_it_tells_are_kept_when_nobody_was_faster(orders: Orders) -> None:
    placed = await add(orders, order(), "r1")
    cancelled = placed.cancel(ONE_O_CLOCK)

    assert await orders.change(OrderCancelled(cancelled))

    assert await orders.get(placed.id, "ann") == cancelled
    assert await orders.by_request("ann", "r1") == cancelled


@pytest.mark.parametrize("kept", ["an older version", "another change of it", "nothing"])
async def test_a_change_of_what_is_not_kept_changes_nothing(orders: Orders, kept: str) -> None:
    placed = order()
    cancelled, rejected = placed.cancel(ONE_O_CLOCK), placed.reject("OUT_OF_STOCK", NOON)
    if kept != "nothing":
        await add(orders, placed, "r1")
    if kept == "another change of it":
        await orders.change(OrderRejected(rejected))

    late = replace(cancelled, version=3) if kept == "an older version" else cancelled
    assert not await orders.change(OrderCancelled(late))

    if kept != "nothing":
        expected = placed if kept == "an older version" else rejected
        assert await orders.get(placed.id, "ann") == expected


async def test_of_many_changes_at_once_one_is_kept(orders: Orders) -> None:
    placed = await add(orders, order(), "r1")
    changes = [OrderCancelled(placed.cancel(NOON + timedelta(minutes=minute))) for minute in range(20)]

    kept = await asyncio.gather(*map(orders.change, changes))

    assert sorted(kept) == [False] * 19 + [True]
    assert await orders.get(placed.id, "ann") == changes[kept.index(True)].order


async def test_lists_are_of_one_customer_and_the_newest_comes_first(orders: Orders) -> None:
    for minute in (2, 1, 3):
        await add(orders, order(request_id=f"r{minute}", at=NOON + timedelta(minutes=minute)), f"r{minute}")
    await add(orders, order(customer=BOB), "r1")

    assert [kept.create_time.minute for kept in await orders.newest("ann", 10, None)] == [3, 2, 1]


async def test_pages_show_each_order_once_also_when_many_were_placed_at_one_moment(orders: Orders) -> None:
    placed = [await add(orders, order(request_id=f"r{number}"), f"r{number}") for number in range(7)]

    seen: list[Order] = []
    while page := await orders.newest("ann", 3, (seen[-1].create_time, seen[-1].id) if seen else None):
        seen += page

    assert len(seen) == 7
    assert {one.id for one in seen} == {one.id for one in placed}


async def test_an_order_that_comes_in_between_does_not_move_the_next_page(orders: Orders) -> None:
    for minute in range(4):
        await add(orders, order(request_id=f"r{minute}", at=NOON + timedelta(minutes=minute)), f"r{minute}")
    first = await orders.newest("ann", 2, None)

    await add(orders, order(request_id="new", at=NOON + timedelta(hours=1)), "new")
    second = await orders.newest("ann", 2, (first[-1].create_time, first[-1].id))

    assert [kept.create_time.minute for kept in (*first, *second)] == [3, 2, 1, 0]


async def test_what_people_write_comes_back_letter_by_letter(orders: Orders) -> None:
    placed = await add(
        orders, order(customer=type(ANN)("ånn'; drop", '"Ann" <ann@example.com>'), request_id="~ '\"\\"), "~ '\"\\"
    )

    assert await orders.by_request("ånn'; drop", "~ '\"\\") == placed
