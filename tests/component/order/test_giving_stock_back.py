"""An order that is cancelled while its stock is confirmed: over the real tables of Order and of Inventory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import override
from uuid import UUID

import pytest

from services.chassis.database import Database
from services.chassis.worker import Worker
from services.inventory.store import SqlReservations, SqlStocks
from services.order.domain import Cart, Order, OrderPlaced, ReservationReleased, State
from services.order.ports import NotConfirmed, Stock
from services.order.store import Claimed, SettlerJob, SqlOrders
from services.order.use_cases import Ordering, Outcome, Settling
from tests.component.order.test_promising_stock import MINUTES, of_the_inventory_service
from tests.support.issuer import Issuer
from tests.support.postgres import Postgres
from tests.support.waiting import eventually
from tests.unit.order.fakes import ANN, MUGS, NOON, TERMS, Catalogue, order


@pytest.fixture
async def shelf(postgres: Postgres) -> AsyncIterator[Database]:
    """Inventory's tables."""
    async with postgres.database("services.inventory") as shelf:
        yield shelf


@pytest.fixture
async def stock(issuer: Issuer, shelf: Database) -> AsyncIterator[Stock]:
    async with of_the_inventory_service(issuer, SqlReservations(shelf), SqlStocks(shelf)) as stock:
        yield stock


class Shop:
    """Where orders are placed and cancelled, and a settler that runs when it is told to."""

    def __init__(self, database: Database, stock: Stock) -> None:
        self.orders = SqlOrders(database, committed=lambda: None)
        self._desk = Ordering(self.orders, Catalogue(), stock, lambda: TERMS, lambda: NOON, lambda: 60.0)
        self.place = partial(self._desk.place, ANN, MUGS)
        self.cancel = partial(self._desk.cancel, customer_id="ann")
        settling = Settling(stock, lambda: TERMS, lambda: NOON)
        self.settler = SettlerJob(database, settling.settle, committed=lambda: None)

    async def settle(self) -> None:
        items = await self.settler.claim(100)
        await self.settler.settle(list(zip(items, await self.settler.act(items), strict=True)))


async def require_all_given_back(shelf: Database) -> None:
    mugs = await shelf.fetchrow("select on_hand, reserved from audit_stock where product = 'mug'")
    booked = await shelf.fetchrow(
        "select sum(on_hand_delta), sum(reserved_delta) from audit_ledger where product = 'mug'"
    )
    assert mugs is not None
    assert booked is not None
    assert tuple(mugs) == tuple(booked) == (100, 0)


class StockWithSomethingBetween(Stock):
    """Somebody acts just before a confirmation reaches Inventory, or just after it was answered; once."""

    def __init__(self, stock: Stock) -> None:
        self._stock = stock
        self.before: Callable[[], Awaitable[object]] | None = None
        self.after: Callable[[], Awaitable[object]] | None = None

    @override
    async def reserve(self, order_id: UUID, cart: Cart, ttl: timedelta, timeout_s: float | None = None) -> None:
        await self._stock.reserve(order_id, cart, ttl, timeout_s)

    @override
    async def confirm(self, order_ids: Sequence[UUID]) -> Mapping[UUID, NotConfirmed | None]:
        if act := self.before:
            self.before = None
            await act()
        answers = await self._stock.confirm(order_ids)
        if act := self.after:
            self.after = None
            await act()
        return answers

    @override
    async def release(self, order_id: UUID) -> None:
        await self._stock.release(order_id)


@pytest.mark.parametrize("hold", ["held", "never heard of"])
@pytest.mark.parametrize("released", ["by the same replica, later", "by another replica, meanwhile"])
@pytest.mark.parametrize("when", ["before it is confirmed", "after it was confirmed", "when all is settled"])
async def test_whenever_an_order_is_cancelled_its_pieces_come_back(
    database: Database, shelf: Database, stock: Stock, when: str, released: str, hold: str
) -> None:
    between = StockWithSomethingBetween(stock)
    shop, another = Shop(database, between), Shop(database, stock)
    if hold == "held":
        placed = await shop.place("r1")
    else:
        placed = await shop.orders.add(order(), OrderPlaced(order()), "r1")

    async def cancel() -> None:
        await another.cancel(placed.id)
        if released == "by another replica, meanwhile":
            await another.settle()

    if when == "before it is confirmed":
        between.before = cancel
    elif when == "after it was confirmed":
        between.after = cancel
    await shop.settle()
    if when == "when all is settled":
        await cancel()
    await database.execute("update orders set claimed_until = now() - interval '1 s'")
    await shop.settle()

    assert (await shop.orders.get(placed.id, "ann")).state is State.CANCELLED
    assert await database.fetchval("select settled_time is not null from orders")
    assert await shelf.fetchval("select state from audit_reservations") == "RELEASED"
    await require_all_given_back(shelf)


async def test_many_orders_cancelled_while_replicas_settle_leave_no_piece_behind(
    database: Database, shelf: Database, stock: Stock
) -> None:
    shop = Shop(database, stock)

    async def place_and_cancel(number: int) -> Order:
        placed = await shop.place(f"r{number}")
        return await shop.cancel(placed.id, etag=placed.etag)

    async def all_settled() -> bool:
        return not await database.fetchval("select count(*) from orders where settled_time is null")

    async with asyncio.TaskGroup() as replicas:
        running = [
            replicas.create_task(Worker[Claimed, Outcome](shop.settler, batch=4, poll_s=0.01).run()) for _ in range(3)
        ]
        cancelled = await asyncio.gather(*map(place_and_cancel, range(40)))
        await eventually(all_settled, "every order is settled")
        for task in running:
            task.cancel()

    assert {(one.state, one.version) for one in cancelled} == {(State.CANCELLED, 2)}
    await require_all_given_back(shelf)


async def test_a_try_that_is_still_under_way_after_its_order_was_cancelled_holds_nothing_anew(
    database: Database, shelf: Database, stock: Stock
) -> None:
    shop = Shop(database, stock)
    placed = await shop.place("r1")
    await shop.cancel(placed.id)
    await shop.settle()

    with pytest.raises(ReservationReleased):
        await stock.reserve(placed.id, MUGS, MINUTES)
    assert (await shop.place("r1")).state is State.CANCELLED
    await require_all_given_back(shelf)
