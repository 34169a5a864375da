"""Whatever is done to a few products, orders and holds, also at once: in the end every piece is accounted for."""

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from shop.inventory.v1 import inventory_pb2
from shop.order.v1 import order_pb2

from tests.fuzz.calling import PAST_THE_EDGE, Outside
from tests.fuzz.contracts import called_with
from tests.fuzz.furnishing import stocked
from tests.fuzz.searching import searching
from tests.support.shop import Shop
from tests.support.shop_fixtures import audit
from tests.support.waiting import eventually

PIECES, AT_ONCE = 6, 4

PRODUCT, NUMBER, CUSTOMER = st.integers(0, 1), st.integers(0, 2), st.sampled_from(["ann", "bob"])
LINES = st.lists(st.tuples(PRODUCT, st.integers(1, 4)), min_size=1, max_size=2, unique_by=lambda line: line[0])
STEP = st.one_of(
    st.tuples(st.just("place"), CUSTOMER, NUMBER, LINES),
    st.tuples(st.just("cancel"), CUSTOMER, NUMBER),
    st.tuples(st.just("adjust"), PRODUCT, NUMBER, st.integers(-4, 4).filter(bool)),
    st.tuples(st.just("hold"), NUMBER, LINES),
    st.tuples(st.just("confirm"), NUMBER),
    st.tuples(st.just("release"), NUMBER),
)
"""What is done, and to which of few things; a number stands for a request_id or a hold."""


@dataclass(slots=True)
class Things:
    """What one example has to itself."""

    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    products: list[str] = field(default_factory=list)
    orders: dict[str, list[str]] = field(default_factory=lambda: {"ann": [""], "bob": [""]})
    """Names, by customer; the first is none."""
    holds: list[str] = field(default_factory=lambda: [str(uuid.uuid4()) for _ in range(3)])


def request(step: tuple[Any, ...], things: Things) -> tuple[str, Message]:
    """Who asks, and what."""
    match step:
        case "place", customer, key, lines:
            ordered = [order_pb2.Order.Line(product=things.products[at], quantity=pieces) for at, pieces in lines]
            key = f"{things.run} {key}"
            return customer, order_pb2.PlaceOrderRequest(order=order_pb2.Order(lines=ordered), request_id=key)
        case "cancel", customer, number:
            known = things.orders[customer]
            return customer, order_pb2.CancelOrderRequest(name=known[number % len(known)])
        case "adjust", at, key, delta:
            name, key = f"{things.products[at]}/stock", f"{things.run} {key}"
            return "carol", inventory_pb2.AdjustStockRequest(name=name, delta=delta, request_id=key)
        case "hold", number, lines:
            held = [
                inventory_pb2.Reservation.Line(product=things.products[at], quantity=pieces) for at, pieces in lines
            ]
            return "order", inventory_pb2.ReserveStockRequest(
                reservation_id=things.holds[number],
                reservation=inventory_pb2.Reservation(lines=held),
                ttl=Duration(seconds=1),
            )
        case "confirm", number:
            names = [f"reservations/{things.holds[number]}"]
            return "order", inventory_pb2.ConfirmReservationsRequest(names=names)
        case "release", number:
            return "order", inventory_pb2.ReleaseReservationRequest(name=f"reservations/{things.holds[number]}")
        case unknown:
            raise AssertionError(unknown)


@searching(8)
@given(moments=st.lists(st.lists(STEP, min_size=1, max_size=AT_ONCE), min_size=3, max_size=10))
def test_in_the_end_every_piece_is_accounted_for(moments: list[list[tuple[Any, ...]]], outside: Outside) -> None:
    things = Things()
    things.products = [stocked(outside, f"fuzz-{things.run}-{number}", PIECES) for number in range(2)]

    def take(step: tuple[Any, ...]) -> None:
        caller, message = request(step, things)
        answer = outside.say(called_with(message), PAST_THE_EDGE, caller, message.SerializeToString())
        if isinstance(answer, order_pb2.PlaceOrderResponse):
            things.orders[caller].append(answer.order.name)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        for steps in moments:
            list(threads.map(take, steps))
        # In a thread: this one has the loop of other tests.
        threads.submit(asyncio.run, everything_adds_up(outside.shop, things)).result()


async def everything_adds_up(shop: Shop, things: Things) -> None:
    """Waits for what goes on by itself: orders are settled, holds lapse."""
    ids = [name.removeprefix("products/") for name in things.products]

    async def settled() -> bool:
        open_orders = "select from audit_orders where request_id like $1 || ' %' and settled_time is null"
        open_holds = "select from audit_reservations where reservation_id::text = any($1) and state = 'HELD'"
        return not await audit(shop, "order", open_orders, things.run) and not await audit(
            shop, "inventory", open_holds, things.holds
        )

    await eventually(settled, "orders settled and holds lapsed")
    counted = """
      select product, on_hand, reserved, sum(on_hand_delta) as came, sum(reserved_delta) as promised
      from audit_stock join audit_ledger using (product) where product = any($1) group by 1, 2, 3"""
    for stock in await audit(shop, "inventory", counted, ids):
        assert stock["reserved"] == stock["promised"] == 0
        assert 0 <= stock["on_hand"] == stock["came"]
    orders = await audit(shop, "order", "select * from audit_orders where request_id like $1 || ' %'", things.run)
    kept = "select reservation_id, state from audit_reservations where reservation_id = any($1)"
    rows = await audit(shop, "inventory", kept, [order["order_id"] for order in orders])
    states = {row["reservation_id"]: row["state"] for row in rows}
    assert states == {order["order_id"]: BELONGS[order["state"]] for order in orders}


BELONGS = {"PLACED": "CONFIRMED", "REJECTED": "RELEASED", "CANCELLED": "RELEASED"}
"""State of an order and of its reservation, once it is settled."""
