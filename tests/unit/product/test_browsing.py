"""Reading the catalogue, with products in memory."""

import pytest

from services.money import Money
from services.product.domain import Description, ProductNotFound
from services.product.use_cases import Browsing, PageSizes
from tests.support.product import MemoryCatalog


async def browsing(*ids: str, sizes: PageSizes = PageSizes(default=2, most=3)) -> Browsing:  # noqa: B008  immutable
    catalog = MemoryCatalog()
    for id in ids:
        await catalog.add(id, Description(id.title(), "", Money.of("EUR", 5), ""), "carol", id)
    return Browsing(catalog, lambda: sizes)


async def test_several_products_come_once_each_in_the_order_of_first_mention() -> None:
    at = await browsing("bowl", "mug", "spoon")

    assert [product.id for product in await at.several(["spoon", "bowl", "spoon", "mug"])] == ["spoon", "bowl", "mug"]


async def test_several_products_are_refused_for_the_first_that_is_missing() -> None:
    at = await browsing("bowl")

    with pytest.raises(ProductNotFound) as refusal:
        await at.several(["bowl", "spoon", "mug"])
    assert refusal.value.facts == {"product": "products/spoon"}


@pytest.mark.parametrize(("asked", "size"), [(0, 2), (1, 1), (2, 2), (3, 3), (1000, 3)])
async def test_a_page_has_the_size_asked_for_within_limits(asked: int, size: int) -> None:
    at = await browsing("bowl", "fork", "mug", "spoon")

    page, _ = await at.page(None, asked)

    assert len(page) == size


def test_a_default_above_the_maximum_is_the_maximum() -> None:
    assert PageSizes(default=20, most=10).of(0) == 10


async def test_only_the_last_page_leads_nowhere() -> None:
    at = await browsing("bowl", "fork", "mug", "spoon")

    first, behind_first = await at.page(None, 2)
    second, behind_second = await at.page(behind_first, 2)

    assert [product.id for product in [*first, *second]] == ["bowl", "fork", "mug", "spoon"]
    assert behind_first == ("Fork", "fork")
    assert behind_second is None
