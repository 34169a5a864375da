"""Placing an order, with everything outside faked."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import override
from uuid import UUID

import pytest

from services.money import Money
from services.order.domain import (
    Cart,
    Customer,
    DeadlineTooShort,
    EmailMissing,
    Event,
    InventoryUnavailable,
    Offer,
    Order,
    OrderPlaced,
    OrderRejected,
    OutOfStock,
    ProductArchived,
    ProductNotFound,
    ReservationReleased,
    State,
    Terms,
)
from services.order.ports import Catalog, Stock
from services.order.use_cases import Ordering
from services.refusals import Refusal, RequestIdReused, Unavailable
from tests.support.waiting import DEADLINE_S
from tests.unit.order.fakes import (
    ANN,
    MUG_AND_TEAPOT,
    MUGS,
    NOON,
    PENDING_TERMS,
    SHELF,
    TERMS,
    Catalogue,
    MemoryOrders,
    Warehouse,
    order,
    place_meanwhile,
)

ARCHIVED = replace(SHELF["mug"], archived=True)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time

    async def move(self, by_s: float) -> None:
        self.time += by_s


class Away(Unavailable):
    reason = "DATABASE_UNAVAILABLE"
    message = "Away."


def desk(
    orders: MemoryOrders,
    stock: Stock | None = None,
    *,
    catalog: Catalog | None = None,
    time_left_s: float | None = 5.0,
    clock: Clock | None = None,
    terms: Terms = TERMS,
) -> Ordering:
    return Ordering(
        orders,
        catalog or Catalogue(),
        stock or Warehouse(),
        lambda: terms,
        lambda: NOON,
        lambda: time_left_s,
        clock or Clock(),
    )


async def place(at: Ordering, cart: Cart = MUGS, request_id: str = "r1", *, customer: Customer = ANN) -> Order:
    return await at.place(customer, cart, request_id)


async def test_an_order_has_the_names_and_prices_of_the_catalogue_and_the_sum_of_its_lines() -> None:
    orders = MemoryOrders()

    placed = await place(desk(orders), MUG_AND_TEAPOT)

    assert [(line.display_name, line.unit_price) for line in placed.lines] == [
        ("Mug", Money.of("EUR", 12, 500_000_000)),
        ("Teapot", Money.of("EUR", 39)),
    ]
    assert placed.total == Money.of("EUR", 51, 500_000_000)
    assert orders.said == [OrderPlaced(placed)]


async def test_the_same_request_id_places_one_order() -> None:
    orders = MemoryOrders()
    at = desk(orders)

    first = await place(at)
    again = await place(at)

    assert first == again
    assert orders.said == [OrderPlaced(first)]


async def test_a_repeated_request_gets_the_order_as_it_is_now() -> None:
    orders = MemoryOrders()
    at = desk(orders)
    rejected = (await place(at)).reject("OUT_OF_STOCK", NOON)
    await orders.change(OrderRejected(rejected))

    assert await place(at) == rejected


async def test_another_cart_under_the_same_request_id_is_refused() -> None:
    at = desk(MemoryOrders())
    first = await place(at)

    with pytest.raises(RequestIdReused) as refusal:
        await place(at, MUG_AND_TEAPOT)

    assert refusal.value.facts == {"order": f"orders/{first.id}"}


async def test_a_repeated_request_is_not_measured_by_new_prices() -> None:
    orders = MemoryOrders()
    first = await place(desk(orders))
    dearer = {"mug": Offer("Mug", Money.of("EUR", 99))}

    assert await place(desk(orders, catalog=Catalogue(dearer))) == first


async def test_a_repeated_request_gets_its_order_also_when_the_product_is_not_sold_any_more() -> None:
    orders = MemoryOrders()
    first = await place(desk(orders))

    assert await place(desk(orders, catalog=Catalogue({"mug": ARCHIVED}))) == first


async def test_an_order_that_was_placed_meanwhile_is_the_answer_although_the_product_is_archived() -> None:
    orders, placed = MemoryOrders(), order()
    catalogue = Catalogue({"mug": ARCHIVED}, before=partial(place_meanwhile, orders, placed))

    assert await place(desk(orders, catalog=catalogue)) == placed


async def test_two_customers_may_use_the_same_request_id() -> None:
    at = desk(MemoryOrders())

    first = await place(at)
    second = await place(at, customer=Customer("bob", "bob@example.com"))

    assert first.id != second.id


@pytest.mark.parametrize(
    ("customer", "cart", "offers", "refusal"),
    [
        (Customer("eve", ""), MUGS, SHELF, EmailMissing),
        (ANN, Cart.of([("unicorn", 1)]), SHELF, ProductNotFound),
        (ANN, MUG_AND_TEAPOT, SHELF | {"mug": ARCHIVED}, ProductArchived),
        (ANN, MUG_AND_TEAPOT, SHELF | {"teapot": ARCHIVED}, ProductArchived),
    ],
)
async def test_what_is_refused_holds_no_stock(
    customer: Customer, cart: Cart, offers: dict[str, Offer], refusal: type[Refusal]
) -> None:
    stock, orders = Warehouse(), MemoryOrders()

    with pytest.raises(refusal):
        await place(desk(orders, stock, catalog=Catalogue(offers)), cart, customer=customer)

    assert not stock.held
    assert not orders.said


async def test_a_failed_try_does_not_burn_the_request_id_not_even_for_another_cart() -> None:
    orders, stock = MemoryOrders(), Warehouse(short={"teapot"})
    with pytest.raises(OutOfStock):
        await place(desk(orders, stock), MUG_AND_TEAPOT)

    assert (await place(desk(orders, stock), MUGS)).lines[0].quantity == 2


# The second look-up: before any refusal is answered.


@pytest.mark.parametrize(
    "refusal",
    [InventoryUnavailable(), OutOfStock(product="products/mug", requested="2", available="0")],
    ids=lambda r: r.reason,
)
async def test_an_order_that_was_placed_meanwhile_is_the_answer_instead_of_a_refusal(refusal: Refusal) -> None:
    orders, placed = MemoryOrders(), order()
    stock = Warehouse(before=partial(place_meanwhile, orders, placed), away=refusal)

    assert await place(desk(orders, stock)) == placed


async def test_another_order_of_the_request_placed_meanwhile_is_told_instead_of_a_refusal() -> None:
    orders, other = MemoryOrders(), order(MUG_AND_TEAPOT)
    stock = Warehouse(before=partial(place_meanwhile, orders, other), short={"mug"})

    with pytest.raises(RequestIdReused):
        await place(desk(orders, stock))


class OrdersThatAnswerTooLate(MemoryOrders):
    """The commit gets through, the answer does not."""

    @override
    async def add(self, order: Order, event: Event | None, request_id: str) -> Order:
        await super().add(order, event, request_id)
        raise Away


async def test_a_commit_in_doubt_that_got_through_is_an_order() -> None:
    orders, stock = OrdersThatAnswerTooLate(), Warehouse()

    placed = await place(desk(orders, stock))

    assert orders.said == [OrderPlaced(placed)]
    assert stock.held == {placed.id: "HELD"}, "an order's hold is never released while it may exist"


class OrdersThatAreAway(MemoryOrders):
    @override
    async def add(self, order: Order, event: Event | None, request_id: str) -> Order:
        raise Away


async def test_an_order_that_cannot_be_kept_leaves_its_hold_to_lapse() -> None:
    stock = Warehouse()

    with pytest.raises(Away):
        await place(desk(OrdersThatAreAway(), stock))

    assert list(stock.held.values()) == ["HELD"], "the commit may still come through, so nobody gives the hold back"


# The race for one request_id.


async def test_who_loses_the_race_with_other_lines_gives_its_own_hold_back() -> None:
    orders, winner = MemoryOrders(), order(MUG_AND_TEAPOT)
    stock = Warehouse(before=partial(place_meanwhile, orders, winner))
    stock.held[winner.id] = "HELD"

    with pytest.raises(RequestIdReused) as refusal:
        await place(desk(orders, stock))

    assert refusal.value.facts == {"order": f"orders/{winner.id}"}
    assert stock.held == {winner.id: "HELD", order().id: "RELEASED"}


async def test_who_loses_the_race_with_the_same_lines_keeps_the_hold_which_is_the_winners() -> None:
    orders, winner = MemoryOrders(), order()
    stock = Warehouse(before=partial(place_meanwhile, orders, winner))

    assert await place(desk(orders, stock)) == winner
    assert stock.held == {winner.id: "HELD"}


class WarehouseThatGoesAway(Warehouse):
    @override
    async def release(self, order_id: UUID) -> None:
        raise InventoryUnavailable


async def test_a_hold_that_cannot_be_given_back_lapses() -> None:
    orders = MemoryOrders()
    stock = WarehouseThatGoesAway(before=partial(place_meanwhile, orders, order(MUG_AND_TEAPOT)))

    with pytest.raises(RequestIdReused):
        await place(desk(orders, stock))


# While Inventory is away.


async def test_an_order_is_accepted_as_pending_while_inventory_is_away_and_nobody_told() -> None:
    orders = MemoryOrders()

    pending = await place(desk(orders, Warehouse(away=InventoryUnavailable()), terms=PENDING_TERMS))

    assert pending == order().pending()
    assert (pending.state, pending.version) == (State.PENDING_STOCK, 1)
    assert await place(desk(orders)) == pending, "also for a retry, whatever holds by then"
    assert not orders.said


async def test_an_order_is_refused_while_inventory_is_away_unless_the_operator_has_set_otherwise() -> None:
    orders = MemoryOrders()

    with pytest.raises(InventoryUnavailable):
        await place(desk(orders, Warehouse(away=InventoryUnavailable())))

    assert await orders.by_request("ann", "r1") is None


async def test_a_retry_of_a_pending_order_gets_it_as_it_was_decided() -> None:
    orders = MemoryOrders()
    at = desk(orders, Warehouse(away=InventoryUnavailable()), terms=PENDING_TERMS)
    accepted = (await place(at)).accept(NOON)
    await orders.change(OrderPlaced(accepted))

    assert await place(at) == accepted


@pytest.mark.parametrize(
    "refusal", [OutOfStock(product="products/mug", requested="2", available="0"), ReservationReleased()]
)
async def test_what_inventory_itself_refuses_is_never_pending(refusal: Refusal) -> None:
    orders = MemoryOrders()

    with pytest.raises(type(refusal)):
        await place(desk(orders, Warehouse(away=refusal), terms=PENDING_TERMS))

    assert await orders.by_request("ann", "r1") is None


async def test_an_order_that_was_placed_meanwhile_is_the_answer_instead_of_a_pending_one() -> None:
    orders, placed = MemoryOrders(), order()
    stock = Warehouse(before=partial(place_meanwhile, orders, placed), away=InventoryUnavailable())

    assert await place(desk(orders, stock, terms=PENDING_TERMS)) == placed


async def test_who_loses_the_race_with_a_pending_order_of_other_lines_is_told_which() -> None:
    orders, winner = MemoryOrders(), order(MUG_AND_TEAPOT)
    stock = Warehouse(before=partial(place_meanwhile, orders, winner), away=InventoryUnavailable())

    with pytest.raises(RequestIdReused) as refusal:
        await place(desk(orders, stock, terms=PENDING_TERMS))

    assert refusal.value.facts == {"order": f"orders/{winner.id}"}


# Time.


@pytest.mark.parametrize(("time_left_s", "limit_s"), [(0.5, 0.2), (0.9, 0.6), (1.3, 1.0), (60.0, 1.0), (None, 1.0)])
async def test_stock_has_the_configured_time_or_what_the_caller_leaves(
    time_left_s: float | None, limit_s: float
) -> None:
    stock, catalogue = Warehouse(), Catalogue()

    await place(desk(MemoryOrders(), stock, catalog=catalogue, time_left_s=time_left_s))

    assert catalogue.timeout_s == (None if time_left_s is None else pytest.approx(time_left_s - 0.3))

    assert stock.timeout_s == pytest.approx(limit_s)
    assert stock.ttl == TERMS.hold_ttl


async def test_with_less_than_half_a_second_left_nothing_is_begun() -> None:
    stock = Warehouse()

    with pytest.raises(DeadlineTooShort):
        await place(desk(MemoryOrders(), stock, time_left_s=0.499, terms=PENDING_TERMS))

    assert not stock.held


async def test_an_order_is_not_kept_on_a_hold_that_is_half_over() -> None:
    orders, clock = MemoryOrders(), Clock()
    half = TERMS.hold_ttl.total_seconds() / 2
    stock = Warehouse(before=lambda: clock.move(half + 0.1))

    with pytest.raises(InventoryUnavailable):
        await place(desk(orders, stock, time_left_s=3600.0, clock=clock))

    assert not orders.said
    pending = await place(desk(orders, stock, time_left_s=3600.0, clock=clock, terms=PENDING_TERMS))
    assert pending.state is State.PENDING_STOCK, "the settler renews the hold"


class OrdersThatTakeTheirTime(MemoryOrders):
    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    @override
    async def add(self, order: Order, event: Event | None, request_id: str) -> Order:
        self.begun.set()
        await self.go_on.wait()
        return await super().add(order, event, request_id)


async def test_a_cancelled_call_does_not_tear_the_commit() -> None:
    orders = OrdersThatTakeTheirTime()
    call = asyncio.create_task(place(desk(orders)))
    await asyncio.wait_for(orders.begun.wait(), DEADLINE_S)

    call.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not call.done(), "nobody else waits for the commit"
    orders.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert len(orders.said) == 1


# Reading.


async def test_the_last_page_leads_nowhere() -> None:
    orders = MemoryOrders()
    for number in range(4):
        await place(desk(orders), request_id=f"r{number}")

    first, beyond = await desk(orders).newest("ann", 2, None)
    second, end = await desk(orders).newest("ann", 2, beyond)

    assert len({placed.id for placed in (*first, *second)}) == 4
    assert end is None
