"""examples/place_order.py with a whole shop."""

import re
import uuid

from tests.support.example import place_order
from tests.support.proxy import proxy_to
from tests.support.shop import Shop
from tests.support.shop_fixtures import Stocked, audit


async def test_it_prints_the_order(shop: Shop, stocked: Stocked) -> None:
    product = await stocked(2)

    status, said, complained = await place_order(shop.edge, shop.token("ann"), f"{product}=2")

    assert (status, complained) == (0, "")
    assert f'product: "{product}"' in said
    assert "state: STATE_PLACED" in said


async def test_it_prints_why_there_is_no_order(shop: Shop, stocked: Stocked) -> None:
    product = await stocked(2)

    status, said, complained = await place_order(shop.edge, shop.token("ann"), f"{product}=3")

    assert (status, said) == (1, "")
    assert complained.startswith("FAILED_PRECONDITION/OUT_OF_STOCK: ")
    for fact in (f"'product': '{product}'", "'requested': '3'", "'available': '2'"):
        assert fact in complained


async def test_an_attempt_whose_answer_is_lost_and_the_next_one_place_one_order(shop: Shop, stocked: Stocked) -> None:
    product, request_id = await stocked(2), str(uuid.uuid4())

    async with proxy_to(shop.ports["edge"]) as wire:
        wire.word_to_lose = b"orders/"
        status, said, complained = await place_order(
            f"127.0.0.1:{wire.port}", shop.token("ann"), f"{product}=1", "--request-id", request_id
        )

    assert (status, complained) == (0, "attempt 1: UNAVAILABLE\n")
    (name,) = re.findall(r'^name: "orders/(.*)"', said, re.MULTILINE)
    rows = await audit(shop, "order", "select order_id from audit_orders where request_id = $1", request_id)
    assert [str(row["order_id"]) for row in rows] == [name]
