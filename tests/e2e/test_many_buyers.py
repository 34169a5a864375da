"""Many buyers at once, over two instances of Inventory."""

import asyncio

import grpc
from shop.order.v1 import order_pb2_grpc

from tests.support.refused import Refused, outcome
from tests.support.shop import Shop
from tests.support.shop_fixtures import Bearer, Stocked, audit, order_of
from tests.support.waiting import eventually


async def test_of_fifty_buyers_of_ten_pieces_ten_win(
    shop: Shop, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    product = await stocked(10)
    orders = order_pb2_grpc.OrderServiceStub(edge)

    buyers = ["ann", "bob"] * 25
    outcomes = await asyncio.gather(
        *(outcome(orders.PlaceOrder(order_of(product), metadata=bearer(buyer), timeout=60)) for buyer in buyers)
    )

    out_of_stock = Refused(
        grpc.StatusCode.FAILED_PRECONDITION,
        "OUT_OF_STOCK",
        {"product": product, "requested": "1", "available": "0"},
    )
    assert outcomes.count(Refused(grpc.StatusCode.OK)) == 10
    assert outcomes.count(out_of_stock) == 40

    async def all_left() -> bool:
        query = "select on_hand, reserved from audit_stock where product = $1"
        (row,) = await audit(shop, "inventory", query, product.removeprefix("products/"))
        return (row["on_hand"], row["reserved"]) == (0, 0)

    await eventually(all_left, "all ten pieces have left the warehouse")
