"""The rules of stock, whatever keeps it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.inventory.domain import (
    Lines,
    Move,
    OutOfStock,
    Reservation,
    ReservationDiffers,
    ReservationNotFound,
    ReservationReleased,
    Shelf,
    State,
    Stock,
    StockBelowReserved,
)
from services.refusals import Refusal
from tests.support.inventory import require_consistent

NONE, HELD, EXPIRED, CONFIRMED, RELEASED = State.NONE, State.HELD, State.EXPIRED, State.CONFIRMED, State.RELEASED
ID = UUID(int=1)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=10)
THREE_MUGS = Lines.of([("mug", 3)])
ENOUGH = {"mug": Stock("mug", on_hand=10, reserved=3, version=1)}
SHORT = {"mug": Stock("mug", on_hand=4, reserved=3, version=1)}
UNSTOCKED: Shelf = {}


type Action = Callable[[Reservation, Shelf], Reservation]


def reserve(now: Reservation, shelf: Shelf) -> Reservation:
    return now.reserved(THREE_MUGS, shelf, LATER)


def confirm(now: Reservation, shelf: Shelf) -> Reservation:
    return now.confirmed(shelf)


def release(now: Reservation, _shelf: Shelf) -> Reservation:
    return now.released()


def expire(now: Reservation, _shelf: Shelf) -> Reservation:
    return now.expired()


def a_reservation(state: State) -> Reservation:
    return Reservation(ID) if state is NONE else Reservation(ID, THREE_MUGS, state, NOON)


@pytest.mark.parametrize(
    ("now", "action", "shelf", "then", "on_hand", "reserved"),
    [
        (NONE, reserve, ENOUGH, HELD, 0, +3),
        (NONE, reserve, SHORT, OutOfStock, 0, 0),
        (NONE, reserve, UNSTOCKED, OutOfStock, 0, 0),
        (NONE, confirm, ENOUGH, ReservationNotFound, 0, 0),
        (NONE, release, ENOUGH, RELEASED, 0, 0),
        (NONE, expire, ENOUGH, NONE, 0, 0),
        (HELD, reserve, SHORT, HELD, 0, 0),
        (HELD, confirm, SHORT, CONFIRMED, -3, -3),
        (HELD, release, SHORT, RELEASED, 0, -3),
        (HELD, expire, SHORT, EXPIRED, 0, -3),
        (EXPIRED, reserve, ENOUGH, HELD, 0, +3),
        (EXPIRED, reserve, SHORT, OutOfStock, 0, 0),
        (EXPIRED, confirm, ENOUGH, CONFIRMED, -3, 0),
        (EXPIRED, confirm, SHORT, OutOfStock, 0, 0),
        (EXPIRED, release, SHORT, RELEASED, 0, 0),
        (EXPIRED, expire, SHORT, EXPIRED, 0, 0),
        (CONFIRMED, reserve, SHORT, CONFIRMED, 0, 0),
        (CONFIRMED, confirm, SHORT, CONFIRMED, 0, 0),
        (CONFIRMED, release, SHORT, RELEASED, +3, 0),
        (CONFIRMED, expire, SHORT, CONFIRMED, 0, 0),
        (RELEASED, reserve, ENOUGH, ReservationReleased, 0, 0),
        (RELEASED, confirm, ENOUGH, ReservationReleased, 0, 0),
        (RELEASED, release, ENOUGH, RELEASED, 0, 0),
        (RELEASED, expire, ENOUGH, RELEASED, 0, 0),
    ],
)
def test_what_may_happen_to_a_reservation(
    now: State, action: Action, shelf: Shelf, then: State | type[Refusal], on_hand: int, reserved: int
) -> None:
    before = a_reservation(now)

    if not isinstance(then, State):
        with pytest.raises(then):
            action(before, shelf)
        return
    after = action(before, shelf)

    assert after.state is then
    assert after.moves_since(before) == ((Move("mug", on_hand, reserved),) if on_hand or reserved else ())


def test_reserving_again_renews_the_hold_and_never_shortens_it() -> None:
    held = a_reservation(HELD)

    assert held.reserved(THREE_MUGS, SHORT, LATER).expire_time == LATER
    assert held.reserved(THREE_MUGS, SHORT, NOON - timedelta(seconds=1)).expire_time == NOON


@pytest.mark.parametrize("state", [HELD, EXPIRED, CONFIRMED, RELEASED])
def test_other_lines_under_a_known_id_are_refused(state: State) -> None:
    with pytest.raises(ReservationDiffers):
        a_reservation(state).reserved(Lines.of([("mug", 2)]), ENOUGH, LATER)


def test_a_tombstone_refuses_whatever_lines_come_later() -> None:
    with pytest.raises(ReservationReleased):
        Reservation(ID).released().reserved(THREE_MUGS, ENOUGH, LATER)


def test_out_of_stock_names_the_first_product_that_is_short_with_its_numbers() -> None:
    wanted = Lines.of([("spoon", 1), ("mug", 3), ("bowl", 1), ("mug", 4)])
    shelf = {**ENOUGH, "mug": Stock("mug", 9, 3, 1), "bowl": Stock("bowl", 1, 0, 1)}

    with pytest.raises(OutOfStock) as refusal:
        wanted.require(shelf)

    assert refusal.value.facts == {"product": "products/mug", "requested": "7", "available": "6"}


def test_what_was_never_in_stock_is_out_of_stock_with_none_available() -> None:
    with pytest.raises(OutOfStock) as refusal:
        THREE_MUGS.require(UNSTOCKED)

    assert refusal.value.facts == {"product": "products/mug", "requested": "3", "available": "0"}


def test_stock_is_adjusted_down_to_what_is_promised_and_no_further() -> None:
    stock = ENOUGH["mug"]

    assert stock.adjusted(-7) == Stock("mug", on_hand=3, reserved=3, version=2)
    with pytest.raises(StockBelowReserved) as refusal:
        stock.adjusted(-8)
    assert refusal.value.facts == {"product": "products/mug", "on_hand": "10", "reserved": "3"}


PRODUCTS = st.sampled_from(["bowl", "mug", "spoon"])
CARTS = st.lists(st.tuples(PRODUCTS, st.integers(1, 4)), min_size=1, max_size=4).map(Lines.of)
IDS = st.integers(1, 5).map(lambda number: UUID(int=number))


class AnyOrderOfThings(RuleBasedStateMachine):
    """Whatever is asked in whatever order: the counters stay in bounds and are explained by ledger and holds."""

    def __init__(self) -> None:
        super().__init__()
        self.stocks = {product: Stock(product, 0, 0, 0) for product in ("bowl", "mug")}
        self.reservations: dict[UUID, Reservation] = {}
        self.ledger: list[tuple[UUID | None, str, str, int, int]] = []

    @rule(product=st.sampled_from(["bowl", "mug"]), delta=st.integers(-6, 9))
    def adjust(self, product: str, delta: int) -> None:
        try:
            self.stocks[product] = self.stocks[product].adjusted(delta)
        except StockBelowReserved:
            return
        self.ledger.append((None, product, "ADJUSTED", delta, 0))

    @rule(id=IDS, lines=CARTS)
    def reserve(self, id: UUID, lines: Lines) -> None:
        self.change(id, lambda known: known.reserved(lines, self.stocks, LATER))

    @rule(id=IDS)
    def confirm(self, id: UUID) -> None:
        self.change(id, lambda known: known.confirmed(self.stocks))

    @rule(id=IDS)
    def release(self, id: UUID) -> None:
        self.change(id, Reservation.released)

    @rule(id=IDS)
    def expire(self, id: UUID) -> None:
        self.change(id, Reservation.expired)

    def change(self, id: UUID, action: Callable[[Reservation], Reservation]) -> None:
        before = self.reservations.get(id, Reservation(id))
        try:
            after = action(before)
        except Refusal:
            return
        for move in after.moves_since(before):
            self.stocks[move.product] = self.stocks[move.product].moved(move)
            self.ledger.append((id, move.product, after.state.value, move.on_hand, move.reserved))
        self.reservations[id] = after

    @invariant()
    def nothing_is_sold_twice_or_lost(self) -> None:
        require_consistent(self.stocks, self.reservations.values(), self.ledger)


TestAnyOrderOfThings = AnyOrderOfThings.TestCase
