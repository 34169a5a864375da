"""What must hold of a catalogue, run against every implementation of it."""

import asyncio
from dataclasses import replace

import pytest

from services.chassis.database import Database
from services.money import Money
from services.product.domain import Description, Product, ProductExists, ProductNotFound, Revision
from services.product.ports import Catalog
from services.product.store import SqlCatalog
from services.product.use_cases import Curating
from services.refusals import EtagMismatch, RequestIdReused
from tests.support.postgres import Postgres
from tests.support.product import MemoryCatalog
from tests.support.proxy import proxy_to

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


async def test_a_version_is_changed_once_and_what_it_becomes_is_kept(catalog: Catalog) -> None:
    added = await catalog.add("mug", MUG, "carol", "r1")
    other = Description("Cup", "", Money.of("USD", 9, 990_000_000), "")

    changed = await catalog.save(replace(added, description=other, archived=True))

    assert changed is not None
    assert changed == replace(added, description=other, archived=True, version=2, update_time=changed.update_time)
    assert changed.update_time > added.update_time
    assert await catalog.save(replace(added, description=MUG)) is None
    assert await catalog.get("mug") == changed


async def test_a_repeated_request_gets_the_product_as_it_is_now(catalog: Catalog) -> None:
    added = await catalog.add("mug", MUG, "carol", "r1")
    changed = await catalog.save(replace(added, description=replace(MUG, display_name="Cup"), archived=True))

    assert await catalog.add("mug", MUG, "carol", "r1") == changed
    with pytest.raises(RequestIdReused):
        await catalog.add("mug", replace(MUG, display_name="Cup"), "carol", "r1")


async def test_a_clock_that_was_set_back_does_not_turn_back_update_times(database: Database) -> None:
    catalog = SqlCatalog(database)
    added = await catalog.add("mug", MUG, "carol", "r1")
    await database.execute("update products set update_time = now() + interval '1 hour'")

    before = await catalog.get("mug")
    changed = await catalog.save(replace(added, archived=True))

    assert changed is not None
    assert changed.update_time > before.update_time


async def test_of_many_changes_of_one_state_one_is_made(database: Database) -> None:
    curating = Curating(SqlCatalog(database))
    etag = (await curating.catalog.add("mug", MUG, "carol", "r1")).etag

    results = await asyncio.gather(
        *(curating.revise("mug", Revision(display_name=f"Mug {number}"), etag) for number in range(16)),
        return_exceptions=True,
    )

    assert [type(result) for result in results].count(Product) == 1
    assert [type(result) for result in results].count(EtagMismatch) == 15
    assert (await curating.catalog.get("mug")).version == 2


async def test_of_many_changes_without_an_etag_each_is_made(database: Database) -> None:
    curating = Curating(SqlCatalog(database))
    await curating.catalog.add("mug", MUG, "carol", "r1")

    names = [curating.revise("mug", Revision(display_name=f"Mug {number}"), "") for number in range(8)]
    texts = [curating.revise("mug", Revision(text=f"Text {number}"), "") for number in range(8)]
    results = await asyncio.gather(*names, *texts)

    last_name, last_text = (max(some, key=lambda mug: mug.version) for some in (results[:8], results[8:]))
    assert sorted(mug.version for mug in results) == list(range(2, 18))
    assert (await curating.catalog.get("mug")).description == replace(
        MUG, display_name=last_name.description.display_name, text=last_text.description.text
    )


async def test_one_request_sent_many_times_at_once_adds_one_product(database: Database) -> None:
    catalog = SqlCatalog(database)
    for number in range(10):
        id = f"mug-{number}"
        calls = [catalog.add(id, MUG, "carol", id) for _ in range(50)]
        products = await asyncio.gather(*calls)
        assert products == [await catalog.get(id)] * 50
    assert await database.fetchval("select count(*) from products") == 10


async def test_one_id_wanted_by_many_at_once_goes_to_one(database: Database) -> None:
    catalog = SqlCatalog(database)

    results = await asyncio.gather(
        *(catalog.add("mug", MUG, "carol", f"r{number}") for number in range(16)), return_exceptions=True
    )

    assert [type(result) for result in results].count(Product) == 1
    assert [type(result) for result in results].count(ProductExists) == 15


async def test_a_product_whose_commit_was_not_answered_is_found_by_the_key_of_its_request(
    postgres: Postgres, database: Database
) -> None:
    async with proxy_to(postgres.port) as proxy:
        far = await Database.connect(database._url.replace(f":{postgres.port}/", f":{proxy.port}/"))
        try:
            catalog = SqlCatalog(far)
            await catalog.add("bowl", MUG, "carol", "r0")  # The statement is prepared: one round trip from now on.
            proxy.answers_to_lose = 1

            added = await catalog.add("mug", MUG, "carol", "r1")
        finally:
            await far.close()

    assert proxy.answers_to_lose == 0, "the first answer was lost"
    assert added == await SqlCatalog(database).get("mug")
