"""Many buyers at once, over two instances of Inventory."""

import asyncio

import grpc
from shop.order.v1 import order_pb2_grpc

from tests.support.refused import Refused, outcome
from tests.support.shop_fixtures import Bearer, Stocked, order_of, stock_of
from tests.support.waiting import eventually


async def test_of_fifty_buyers_of_ten_pieces_ten_win(edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked) -> None:
    product = await stocked(10)
    orders = order_pb2_grpc.OrderServiceStub(edge)

    async def buys(buyer: str) -> Refused:
        request = order_of(product)

        async def answered() -> Refused:
            got = await outcome(orders.PlaceOrder(request, metadata=bearer(buyer), timeout=60))
            # A busy machine may take longer than a try may: who is told so asks again, as examples/place_order.py does.
            assert got.code is not grpc.StatusCode.UNAVAILABLE
            return got

        return await eventually(answered, "an answer")

    outcomes = await asyncio.gather(*(buys(buyer) for buyer in ["ann", "bob"] * 25))

    out_of_stock = Refused(
        grpc.StatusCode.FAILED_PRECONDITION,
        "OUT_OF_STOCK",
        {"product": product, "requested": "1", "available": "0"},
    )
    assert outcomes.count(Refused(grpc.StatusCode.OK)) == 10
    assert outcomes.count(out_of_stock) == 40

    async def all_left() -> bool:
        return await stock_of(edge, product) == (0, 0)

    await eventually(all_left, "all ten pieces have left the warehouse")
