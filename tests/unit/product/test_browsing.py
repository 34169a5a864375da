"""Reading the catalogue, with products in memory."""

import pytest

from services.money import Money
from services.product.domain import Description, Listing, ProductNotFound
from services.product.use_cases import Browsing
from tests.support.product import MemoryCatalog


async def browsing(*ids: str) -> Browsing:
    catalog = MemoryCatalog()
    for id in ids:
        await catalog.add(id, Description(id.title(), "", Money.of("EUR", 5), ""), "carol", id)
    return Browsing(catalog)


async def test_several_products_come_once_each_in_the_order_of_first_mention() -> None:
    at = await browsing("bowl", "mug", "spoon")

    assert [product.id for product in await at.several(["spoon", "bowl", "spoon", "mug"])] == ["spoon", "bowl", "mug"]


async def test_several_products_are_refused_for_the_first_that_is_missing() -> None:
    at = await browsing("bowl")

    with pytest.raises(ProductNotFound) as refusal:
        await at.several(["bowl", "spoon", "mug"])
    assert refusal.value.facts == {"product": "products/spoon"}


async def test_only_the_last_page_leads_nowhere() -> None:
    at = await browsing("bowl", "fork", "mug", "spoon")

    first, behind_first = await at.page(Listing(), None, 2)
    second, behind_second = await at.page(Listing(), behind_first, 2)

    assert [product.id for product in [*first, *second]] == ["bowl", "fork", "mug", "spoon"]
    assert behind_first == ("Fork", "fork")
    assert behind_second is None
