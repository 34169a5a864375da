"""Ending holds whose time is over, with stock and reservations in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import override
from uuid import UUID

from services.inventory.domain import Lines, Reservation
from services.inventory.ports import Rule
from services.inventory.reaper import Reaper
from services.inventory.use_cases import Warehouse
from services.refusals import Unavailable
from tests.support.inventory import MemoryReservations, MemoryStocks
from tests.support.waiting import eventually

FIRST, SECOND = UUID(int=1), UUID(int=2)
A_MUG = Lines.of([("mug", 1)])
OVER, NEVER = timedelta(0), timedelta(days=1)


class Away(Unavailable):
    reason = "DATABASE_UNAVAILABLE"
    message = "Away."


class ReservationsThatComeAndGo(MemoryReservations):
    away = False
    looked = 0

    @override
    async def change_overdue(self, rule: Rule) -> Reservation | None:
        self.looked += 1
        if self.away:
            raise Away
        return await super().change_overdue(rule)


class Shop:
    """One warehouse with a reaper, whose interval a test sets."""

    def __init__(self) -> None:
        self.stocks = MemoryStocks()
        self.reservations = ReservationsThatComeAndGo(self.stocks)
        self.warehouse = Warehouse(self.reservations)
        self.interval = timedelta(milliseconds=10)
        self.reaper = Reaper(self.warehouse, lambda: self.interval)

    async def hold_overdue(self, id: UUID) -> None:
        await self.stocks.adjust("mug", 1, "carol", str(id))
        await self.warehouse.reserve(id, A_MUG, OVER)

    async def nothing_is_held(self) -> bool:
        return (await self.stocks.get("mug")).reserved == 0

    @asynccontextmanager
    async def reaping(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reaper.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_it_goes_round_again_and_again() -> None:
    shop = Shop()
    await shop.hold_overdue(FIRST)
    async with shop.reaping():
        await eventually(shop.nothing_is_held, "the first hold ends")
        await shop.hold_overdue(SECOND)
        await eventually(shop.nothing_is_held, "the second hold ends")


async def test_it_goes_on_when_the_database_is_back() -> None:
    shop = Shop()
    await shop.hold_overdue(FIRST)
    shop.reservations.away = True
    async with shop.reaping():

        async def looked_twice() -> bool:
            return shop.reservations.looked >= 2

        await eventually(looked_twice, "it looks again although the database is away")
        shop.reservations.away = False
        await eventually(shop.nothing_is_held, "the hold ends")


async def test_a_new_interval_holds_at_once() -> None:
    shop = Shop()
    shop.interval = NEVER
    async with shop.reaping():

        async def looked() -> bool:
            return shop.reservations.looked == 1

        await eventually(looked, "it has gone round once")
        await shop.hold_overdue(FIRST)
        shop.interval = timedelta(milliseconds=10)
        shop.reaper.interval_changed()
        await eventually(shop.nothing_is_held, "the hold ends")
