"""What must hold of a catalogue, run against every implementation of it."""

import asyncio
from dataclasses import replace

import pytest

from services.chassis.database import Database
from services.money import Money
from services.product.domain import Description, Product, ProductExists, ProductNotFound
from services.product.ports import Catalog
from services.product.store import SqlCatalog
from services.product.use_cases import Browsing
from services.refusals import RequestIdReused
from tests.support.product import MemoryCatalog

MUG = Description("Mug", "Holds tea.", Money.of("EUR", 12, 500_000_000), "https://example.com/mug.png")


@pytest.fixture(params=["memory", "sql"])
def catalog(request: pytest.FixtureRequest) -> Catalog:
    return MemoryCatalog() if request.param == "memory" else SqlCatalog(request.getfixturevalue("database"))


async def test_a_product_is_kept_as_it_was_described(catalog: Catalog) -> None:
    added = await catalog.add("mug", MUG, "carol", "r1")

    assert (added.id, added.description, added.version) == ("mug", MUG, 1)
    assert added.create_time == added.update_time
    assert await catalog.get("mug") == added
    assert await catalog.find(["mug", "bowl"]) == {"mug": added}


async def test_a_product_that_is_not_there_is_not_found(catalog: Catalog) -> None:
    with pytest.raises(ProductNotFound) as refusal:
        await catalog.get("mug")
    assert refusal.value.facts == {"product": "products/mug"}


async def test_the_same_request_id_adds_one_product(catalog: Catalog) -> None:
    assert await catalog.add("mug", MUG, "carol", "r1") == await catalog.add("mug", MUG, "carol", "r1")


@pytest.mark.parametrize(
    ("id", "description"),
    [
        ("cup", MUG),
        ("mug", replace(MUG, display_name="Cup")),
        ("mug", replace(MUG, text="")),
        ("mug", replace(MUG, price=Money.of("EUR", 12))),
        ("mug", replace(MUG, price=Money.of("USD", 12, 500_000_000))),
        ("mug", replace(MUG, image_uri="")),
    ],
)
async def test_another_product_under_the_same_request_id_is_refused(
    catalog: Catalog, id: str, description: Description
) -> None:
    await catalog.add("mug", MUG, "carol", "r1")

    with pytest.raises(RequestIdReused):
        await catalog.add(id, description, "carol", "r1")


@pytest.mark.parametrize(("caller", "request_id"), [("carol", "r2"), ("dave", "r1")])
async def test_a_taken_id_is_refused_and_the_request_id_is_not_used_up(
    catalog: Catalog, caller: str, request_id: str
) -> None:
    await catalog.add("mug", MUG, "carol", "r1")

    with pytest.raises(ProductExists) as refusal:
        await catalog.add("mug", MUG, caller, request_id)
    assert refusal.value.facts == {"product": "products/mug"}
    assert (await catalog.add("mug-blue", MUG, caller, request_id)).id == "mug-blue"


async def test_pages_follow_names_then_ids_and_stay_stable_under_inserts(catalog: Catalog) -> None:
    for id, name in [("mug", "Mug"), ("mug-2", "Mug"), ("bowl", "bowl"), ("cup", "Änne's cup"), ("axe", "Axe")]:
        await catalog.add(id, replace(MUG, display_name=name), "carol", id)
    seen, after, at = list[str](), None, Browsing(catalog)

    while True:
        page, after = await at.page(after, 2)
        seen += [product.id for product in page]
        # Before the place we stand at: pages to come do not shift.
        await catalog.add(f"early-{len(seen)}", replace(MUG, display_name="Aaa"), "carol", f"early-{len(seen)}")
        if after is None:
            break

    assert seen == ["axe", "mug", "mug-2", "bowl", "cup"]


async def test_one_request_sent_many_times_at_once_adds_one_product(database: Database) -> None:
    catalog = SqlCatalog(database)
    for number in range(10):
        id = f"mug-{number}"
        calls = [catalog.add(id, MUG, "carol", id) for _ in range(16)]
        products = await asyncio.gather(*calls)
        assert {product.id for product in products} == {id}


async def test_one_id_wanted_by_many_at_once_goes_to_one(database: Database) -> None:
    catalog = SqlCatalog(database)

    results = await asyncio.gather(
        *(catalog.add("mug", MUG, "carol", f"r{number}") for number in range(16)), return_exceptions=True
    )

    assert [type(result) for result in results].count(Product) == 1
    assert [type(result) for result in results].count(ProductExists) == 15
