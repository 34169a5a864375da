"""What orders can have done at the warehouse, with stock and reservations in memory."""

from datetime import timedelta
from uuid import UUID

import pytest

from services.inventory.domain import Lines, OutOfStock, Reservation, ReservationNotFound, ReservationReleased, State
from services.inventory.use_cases import Warehouse
from tests.support.inventory import MemoryReservations, MemoryStocks

FIRST, SECOND, THIRD, FOURTH = (UUID(int=number) for number in range(1, 5))
A_MUG = Lines.of([("mug", 1)])
TTL = timedelta(minutes=10)


@pytest.fixture
async def warehouse() -> Warehouse:
    stocks = MemoryStocks()
    await stocks.adjust("mug", 2, "carol", "r1")
    return Warehouse(MemoryReservations(stocks))


async def test_every_reservation_of_a_batch_gets_its_own_result_in_the_order_asked(warehouse: Warehouse) -> None:
    held = await warehouse.reserve(FIRST, A_MUG, TTL)
    await warehouse.release(SECOND)
    await warehouse.reserve(THIRD, A_MUG, TTL)

    second, fourth, third, first = await warehouse.confirm([SECOND, FOURTH, THIRD, FIRST])

    assert isinstance(second, ReservationReleased)
    assert isinstance(fourth, ReservationNotFound)
    assert isinstance(third, Reservation)
    assert third.state is State.CONFIRMED
    assert first == Reservation(FIRST, A_MUG, State.CONFIRMED, held.expire_time)


async def test_a_repeat_that_finds_the_last_piece_in_its_own_hold_is_not_refused(warehouse: Warehouse) -> None:
    both = Lines.of([("mug", 2)])
    await warehouse.reserve(FIRST, both, TTL)

    assert (await warehouse.reserve(FIRST, both, TTL)).state is State.HELD
    with pytest.raises(OutOfStock):
        await warehouse.reserve(SECOND, A_MUG, TTL)


async def test_holds_lapse_one_by_one_until_none_is_overdue(warehouse: Warehouse) -> None:
    await warehouse.reserve(FIRST, A_MUG, timedelta(0))
    await warehouse.reserve(SECOND, A_MUG, timedelta(0))

    assert [await warehouse.lapse_one() for _ in range(3)] == [True, True, False]
    assert (await warehouse.reserve(THIRD, Lines.of([("mug", 2)]), TTL)).state is State.HELD
