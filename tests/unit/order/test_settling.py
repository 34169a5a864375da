"""Every cell of the settler's table."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from services.order.domain import InventoryUnavailable, Order, OrderPlaced, OrderRejected, ReservationReleased, State
from services.order.use_cases import Settled, Settlement, Settling
from tests.unit.order.fakes import MUG_AND_TEAPOT, NOON, ONE_O_CLOCK, TERMS, Warehouse, order

PLACED = order()
PENDING = PLACED.pending()
REJECTED = PLACED.reject("OUT_OF_STOCK", NOON)
CANCELLED = PLACED.cancel(NOON)


async def settle(stock: Warehouse, *orders: Order, at: datetime = NOON) -> list[Settlement]:
    return await Settling(stock, lambda: TERMS, lambda: at).settle(orders)


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


@pytest.mark.parametrize("waiting", [PENDING, PLACED], ids=lambda order: order.state.value)
async def test_an_order_whose_hold_was_released_is_looked_at_again_and_not_rejected(waiting: Order) -> None:
    stock = Warehouse(held={PLACED.id: "RELEASED"})

    [outcome] = await settle(stock, waiting, at=NOON + 2 * TERMS.pending_bound)

    assert isinstance(outcome, ReservationReleased)


@pytest.mark.parametrize("reservation", [None, "HELD", "EXPIRED"])
async def test_a_pending_order_whose_pieces_are_held_is_placed(reservation: str | None) -> None:
    stock = Warehouse(held={PENDING.id: reservation} if reservation else {})

    [outcome] = await settle(stock, PENDING, at=ONE_O_CLOCK)

    assert outcome == OrderPlaced(replace(PLACED, version=2, update_time=ONE_O_CLOCK))
    assert stock.held == {PENDING.id: "HELD"}


@pytest.mark.parametrize("reservation", [None, "EXPIRED"])
async def test_a_pending_order_whose_pieces_are_gone_is_rejected(reservation: str | None) -> None:
    stock = Warehouse(short={"mug"}, held={PENDING.id: reservation} if reservation else {})

    assert await settle(stock, PENDING) == [OrderRejected(PENDING.reject("OUT_OF_STOCK", NOON))]


async def test_a_pending_order_is_rejected_when_inventory_is_away_past_its_bound() -> None:
    past = NOON + TERMS.pending_bound + timedelta(microseconds=1)

    [outcome] = await settle(Warehouse(away=InventoryUnavailable()), PENDING, at=past)

    assert outcome == OrderRejected(PENDING.reject("INVENTORY_UNAVAILABLE", past))


async def test_a_pending_order_past_its_bound_is_placed_when_inventory_is_back() -> None:
    [outcome] = await settle(Warehouse(), PENDING, at=NOON + 2 * TERMS.pending_bound)

    assert isinstance(outcome, OrderPlaced)
    assert outcome.order.state is State.PLACED


@pytest.mark.parametrize("waiting", [PLACED, REJECTED, CANCELLED], ids=lambda order: order.state.value)
async def test_only_a_pending_order_has_a_bound(waiting: Order) -> None:
    away = InventoryUnavailable()

    assert await settle(Warehouse(away=away), waiting, at=NOON + 2 * TERMS.pending_bound) == [away]


@pytest.mark.parametrize("waiting", [PENDING, PLACED, REJECTED, CANCELLED], ids=lambda order: order.state.value)
async def test_while_inventory_is_away_nothing_is_decided(waiting: Order) -> None:
    away = InventoryUnavailable()

    assert await settle(Warehouse(away=away, short={"mug"}), waiting) == [away]


async def test_each_order_of_a_batch_has_its_own_outcome() -> None:
    held, unknown, gone = order(request_id="r2"), order(request_id="r3"), order(MUG_AND_TEAPOT, request_id="r4")
    pending, away, odd = [order(request_id=id).pending() for id in ("r5", "r6", "r7")]
    stock = Warehouse(short={"teapot"}, held={held.id: "HELD", gone.id: "EXPIRED", REJECTED.id: "HELD"})
    stock.away_for = {away.id: InventoryUnavailable(), odd.id: ValueError("nobody expected it")}

    outcomes = await settle(stock, held, REJECTED, odd, unknown, away, gone, pending)

    assert outcomes == [
        Settled(),
        Settled(),
        stock.away_for[odd.id],
        Settled(),
        stock.away_for[away.id],
        OrderRejected(gone.reject("OUT_OF_STOCK", NOON)),
        OrderPlaced(pending.accept(NOON)),
    ]
    assert stock.held[REJECTED.id] == "RELEASED"
    assert stock.held[unknown.id] == "CONFIRMED"


@pytest.mark.parametrize("waiting", [PENDING, PLACED], ids=lambda order: order.state.value)
async def test_a_batch_waits_for_a_hold_no_longer_than_a_customer_does(waiting: Order) -> None:
    stock = Warehouse()

    await settle(stock, waiting)

    assert stock.timeout_s == TERMS.reserve_timeout.total_seconds()
