"""Every cell of the settler's table."""

import pytest

from services.order.domain import InventoryUnavailable, Order, OrderRejected
from services.order.use_cases import Settled, Settlement, Settling
from tests.unit.order.fakes import MUG_AND_TEAPOT, NOON, TERMS, Warehouse, order

PLACED = order()
REJECTED = PLACED.reject("OUT_OF_STOCK", NOON)
CANCELLED = PLACED.cancel(NOON)


async def settle(stock: Warehouse, *orders: Order) -> list[Settlement]:
    return await Settling(stock, lambda: TERMS, lambda: NOON).settle(orders)


@pytest.mark.parametrize(
    ("waiting", "reservation", "short", "after"),
    [
        (PLACED, "HELD", False, "CONFIRMED"),
        (PLACED, "EXPIRED", False, "CONFIRMED"),
        (PLACED, "CONFIRMED", False, "CONFIRMED"),
        (PLACED, None, False, "CONFIRMED"),
        (REJECTED, "HELD", False, "RELEASED"),
        (REJECTED, "EXPIRED", True, "RELEASED"),
        (REJECTED, "RELEASED", False, "RELEASED"),
        (REJECTED, None, False, "RELEASED"),
        (CANCELLED, "HELD", False, "RELEASED"),
        (CANCELLED, "EXPIRED", True, "RELEASED"),
        (CANCELLED, "CONFIRMED", False, "RELEASED"),
        (CANCELLED, "RELEASED", False, "RELEASED"),
        (CANCELLED, None, False, "RELEASED"),
    ],
    ids=lambda value: value.state.value if isinstance(value, Order) else str(value),
)
async def test_settled(waiting: Order, reservation: str | None, short: bool, after: str) -> None:
    stock = Warehouse(short={"mug"} if short else set())
    if reservation:
        stock.held[PLACED.id] = reservation

    assert await settle(stock, waiting) == [Settled()]
    assert stock.held == {PLACED.id: after}


@pytest.mark.parametrize("reservation", ["EXPIRED", None])
async def test_a_placed_order_whose_pieces_are_gone_is_rejected(reservation: str | None) -> None:
    stock = Warehouse(short={"mug"})
    if reservation:
        stock.held[PLACED.id] = reservation

    [outcome] = await settle(stock, PLACED)

    assert outcome == OrderRejected(REJECTED)
    assert REJECTED.version == 2
    assert REJECTED.state_reason == "OUT_OF_STOCK"


async def test_a_placed_order_whose_hold_was_released_is_looked_at_again_and_not_rejected() -> None:
    stock = Warehouse(held={PLACED.id: "RELEASED"})

    [outcome] = await settle(stock, PLACED)

    assert not isinstance(outcome, Settled | OrderRejected)
    assert outcome.reason == "RESERVATION_RELEASED"


@pytest.mark.parametrize("waiting", [PLACED, REJECTED, CANCELLED], ids=lambda order: order.state.value)
async def test_while_inventory_is_away_nothing_is_decided(waiting: Order) -> None:
    away = InventoryUnavailable()

    assert await settle(Warehouse(away=away, short={"mug"}), waiting) == [away]


async def test_each_order_of_a_batch_has_its_own_outcome() -> None:
    held, unknown, gone = order(request_id="r2"), order(request_id="r3"), order(MUG_AND_TEAPOT, request_id="r4")
    stock = Warehouse(short={"teapot"}, held={held.id: "HELD", gone.id: "EXPIRED", REJECTED.id: "HELD"})

    outcomes = await settle(stock, held, REJECTED, unknown, gone)

    assert outcomes == [Settled(), Settled(), Settled(), OrderRejected(gone.reject("OUT_OF_STOCK", NOON))]
    assert stock.held[REJECTED.id] == "RELEASED"
    assert stock.held[unknown.id] == "CONFIRMED"
