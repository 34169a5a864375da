"""Looking along the shelves, with stock in memory."""

import pytest

from services.inventory.domain import Availability, StockNotFound
from services.inventory.use_cases import Stocktaking
from tests.support.inventory import MemoryStocks


async def stocktaking(**pieces: int) -> Stocktaking:
    stocks = MemoryStocks()
    for product, quantity in pieces.items():
        await stocks.adjust(product, quantity, "carol", product)
    return Stocktaking(stocks)


async def test_several_come_once_each_in_the_order_of_first_mention() -> None:
    at = await stocktaking(bowl=1, mug=1, spoon=1)

    assert [stock.product for stock in await at.several(["spoon", "bowl", "spoon", "mug"])] == ["spoon", "bowl", "mug"]


async def test_several_are_refused_for_the_first_that_is_missing() -> None:
    at = await stocktaking(bowl=1)

    with pytest.raises(StockNotFound) as refusal:
        await at.several(["bowl", "spoon", "mug"])
    assert refusal.value.facts == {"product": "products/spoon"}


@pytest.mark.parametrize(
    ("cart", "found"),
    [
        ([("mug", 3)], [Availability("mug", 3, 3)]),
        ([("mug", 4)], [Availability("mug", 4, 3)]),
        ([("fork", 1)], [Availability("fork", 1, 0)]),
        ([("mug", 2), ("bowl", 1), ("mug", 2)], [Availability("mug", 4, 3), Availability("bowl", 1, 1)]),
    ],
)
async def test_a_cart_is_compared_with_what_there_is(cart: list[tuple[str, int]], found: list[Availability]) -> None:
    assert await (await stocktaking(bowl=1, mug=3)).check(cart) == found


@pytest.mark.parametrize(("available", "in_stock"), [(0, False), (2, False), (3, True), (4, True)])
def test_enough_is_in_stock(available: int, in_stock: bool) -> None:
    assert Availability("mug", 3, available).in_stock is in_stock


async def test_only_the_last_page_leads_nowhere() -> None:
    at = await stocktaking(spoon=1, bowl=1, mug=1, fork=1)

    first, behind_first = await at.page(None, 2)
    second, behind_second = await at.page(behind_first, 2)

    assert [stock.product for stock in [*first, *second]] == ["bowl", "fork", "mug", "spoon"]
    assert (behind_first, behind_second) == ("fork", None)
