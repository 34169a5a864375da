"""Every state of an order that its customer wants to cancel, and what may happen meanwhile."""

from typing import override

import pytest

from services.order.domain import (
    Event,
    OrderCancelled,
    OrderNotCancellable,
    OrderNotFound,
    OrderPlaced,
    OrderRejected,
    State,
)
from services.order.use_cases import Ordering
from services.refusals import EtagMismatch, Refusal
from tests.unit.order.fakes import NOON, ONE_O_CLOCK, TERMS, Catalogue, MemoryOrders, Warehouse, order

PLACED = order()
REJECTED = PLACED.reject("OUT_OF_STOCK", NOON)
CANCELLED = PLACED.cancel(NOON)
BY_THE_SHOP, BY_ITS_CUSTOMER = OrderRejected(REJECTED), OrderCancelled(CANCELLED)


def desk(orders: MemoryOrders) -> Ordering:
    return Ordering(orders, Catalogue(), Warehouse(), lambda: TERMS, lambda: ONE_O_CLOCK, lambda: 5.0)


async def placed[M: MemoryOrders](orders: M, then: Event | None = None) -> M:
    await orders.add(PLACED, OrderPlaced(PLACED), "r1")
    if then:
        await orders.change(then)
    return orders


@pytest.mark.parametrize("etag", ["", '"1"'])
async def test_a_placed_order_is_cancelled_and_everybody_told(etag: str) -> None:
    orders = await placed(MemoryOrders())

    cancelled = await desk(orders).cancel(PLACED.id, "ann", etag)

    assert cancelled == PLACED.cancel(ONE_O_CLOCK)
    assert (cancelled.state, cancelled.version, cancelled.update_time) == (State.CANCELLED, 2, ONE_O_CLOCK)
    assert await orders.get(PLACED.id, "ann") == cancelled
    assert orders.said == [OrderPlaced(PLACED), OrderCancelled(cancelled)]


async def test_a_pending_order_is_cancelled_and_everybody_told() -> None:
    orders, pending = MemoryOrders(), PLACED.pending()
    await orders.add(pending, None, "r1")

    cancelled = await desk(orders).cancel(PLACED.id, "ann", '"1"')

    assert cancelled == pending.cancel(ONE_O_CLOCK)
    assert orders.said == [OrderCancelled(cancelled)]


async def test_who_is_overtaken_by_the_settler_cancels_what_was_pending_all_the_same() -> None:
    orders, pending = ChangedMeanwhile(), PLACED.pending()
    await orders.add(pending, None, "r1")
    orders.meanwhile = OrderPlaced(pending.accept(NOON))

    cancelled = await desk(orders).cancel(PLACED.id, "ann")

    assert (cancelled.state, cancelled.version) == (State.CANCELLED, 3)
    assert [type(event) for event in orders.said] == [OrderPlaced, OrderCancelled]


@pytest.mark.parametrize("etag", ["", '"1"', '"2"', "rubbish"])
async def test_an_order_that_is_cancelled_is_the_answer_whatever_the_etag(etag: str) -> None:
    orders = await placed(MemoryOrders(), BY_ITS_CUSTOMER)

    assert await desk(orders).cancel(PLACED.id, "ann", etag) == CANCELLED
    assert len(orders.said) == 2


@pytest.mark.parametrize(
    ("change", "customer", "etag", "refusal", "facts"),
    [
        (None, "ann", '"2"', EtagMismatch, {}),
        (None, "ann", "1", EtagMismatch, {}),
        (BY_THE_SHOP, "ann", "", OrderNotCancellable, {"state": "STATE_REJECTED"}),
        (BY_THE_SHOP, "ann", '"1"', OrderNotCancellable, {"state": "STATE_REJECTED"}),
        (None, "bob", "", OrderNotFound, {}),
        (BY_THE_SHOP, "bob", "", OrderNotFound, {}),
        (BY_ITS_CUSTOMER, "bob", "", OrderNotFound, {}),
    ],
)
async def test_refused(
    change: Event | None, customer: str, etag: str, refusal: type[Refusal], facts: dict[str, str]
) -> None:
    orders = await placed(MemoryOrders(), change)
    said = list(orders.said)

    with pytest.raises(refusal) as refused:
        await desk(orders).cancel(PLACED.id, customer, etag)

    assert refused.value.facts == {"order": f"orders/{PLACED.id}", **facts}
    assert orders.said == said


class ChangedMeanwhile(MemoryOrders):
    """Somebody else is faster by a moment, once."""

    meanwhile: Event | None = None

    @override
    async def change(self, event: Event) -> bool:
        if faster := self.meanwhile:
            self.meanwhile = None
            assert await super().change(faster)
        return await super().change(event)


async def test_who_is_overtaken_by_another_cancel_gets_the_order_as_that_left_it() -> None:
    orders = await placed(ChangedMeanwhile())
    orders.meanwhile = BY_ITS_CUSTOMER

    assert await desk(orders).cancel(PLACED.id, "ann", '"1"') == CANCELLED
    assert orders.said == [OrderPlaced(PLACED), BY_ITS_CUSTOMER]


async def test_who_is_overtaken_by_the_shop_is_refused() -> None:
    orders = await placed(ChangedMeanwhile())
    orders.meanwhile = BY_THE_SHOP

    with pytest.raises(OrderNotCancellable):
        await desk(orders).cancel(PLACED.id, "ann")


async def test_a_repeated_request_gets_the_cancelled_order_and_holds_nothing_anew() -> None:
    orders, stock = await placed(MemoryOrders(), BY_ITS_CUSTOMER), Warehouse()
    at = Ordering(orders, Catalogue(), stock, lambda: TERMS, lambda: NOON, lambda: 5.0)

    assert await at.place(PLACED.customer, PLACED.cart, "r1") == CANCELLED
    assert not stock.held
