"""examples/place_order.py with a whole shop."""

import re
import uuid

import grpc
from shop.order.v1 import order_pb2, order_pb2_grpc

from tests.support.example import place_order
from tests.support.installation import Installation
from tests.support.proxy import proxy_to
from tests.support.shop_fixtures import Bearer, Stocked, stock_of
from tests.support.waiting import eventually


async def test_it_prints_the_order(installation: Installation, stocked: Stocked) -> None:
    product = await stocked(2)

    status, said, complained = await place_order(installation.edge, installation.token("ann"), f"{product}=2")

    assert (status, complained) == (0, "")
    assert f'product: "{product}"' in said
    assert "state: STATE_PLACED" in said


async def test_it_prints_why_there_is_no_order(installation: Installation, stocked: Stocked) -> None:
    product = await stocked(2)

    status, said, complained = await place_order(installation.edge, installation.token("ann"), f"{product}=3")

    assert (status, said) == (1, "")
    assert complained.startswith("FAILED_PRECONDITION/OUT_OF_STOCK: ")
    for fact in (f"'product': '{product}'", "'requested': '3'", "'available': '2'"):
        assert fact in complained


async def test_an_attempt_whose_answer_is_lost_and_the_next_one_place_one_order(
    installation: Installation, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    product, request_id = await stocked(2), str(uuid.uuid4())

    async with proxy_to(installation.edge) as wire:
        wire.word_to_lose = b"orders/"
        status, said, complained = await place_order(
            f"127.0.0.1:{wire.port}", installation.token("ann"), f"{product}=1", "--request-id", request_id
        )

    assert (status, complained) == (0, "attempt 1: UNAVAILABLE\n")
    (name,) = re.findall(r'^name: "(orders/.*)"', said, re.MULTILINE)
    newest = order_pb2.ListOrdersRequest(page_size=100)
    anns = (await order_pb2_grpc.OrderServiceStub(edge).ListOrders(newest, metadata=bearer("ann"), timeout=60)).orders
    assert [order.name for order in anns if order.lines[0].product == product] == [name]

    async def one_piece_sold() -> bool:
        return await stock_of(edge, product) == (1, 0)

    await eventually(one_piece_sold, "one piece has left the shelf")
