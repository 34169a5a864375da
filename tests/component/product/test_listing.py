"""Lists of products: which, in which order, page by page, run against every implementation of a catalogue."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product as combinations

import pytest

from services.chassis.database import Database
from services.money import Money
from services.product.domain import Description, Listing, Place, Sort
from services.product.ports import Catalog
from services.product.store import SqlCatalog
from services.product.use_cases import Browsing, Curating
from tests.support.product import MemoryCatalog

ORDERS = [Listing(sort, descending) for sort, descending in combinations(Sort, (False, True))]
ALL_AT_ONCE = 100


@pytest.fixture(params=["memory", "sql"])
def catalog(request: pytest.FixtureRequest) -> Catalog:
    return MemoryCatalog() if request.param == "memory" else SqlCatalog(request.getfixturevalue("database"))


async def add(catalog: Catalog, id: str, name: str = "", price: Money = Money.of("EUR", 1), text: str = "") -> None:  # noqa: B008  immutable
    await catalog.add(id, Description(name or id.title(), text, price, ""), "carol", id)


async def listed(catalog: Catalog, listing: Listing) -> list[str]:
    return [product.id for product in await catalog.page(listing, None, ALL_AT_ONCE)]


SHOP = [
    ("mug", "Mug", Money.of("EUR", 12, 500_000_000)),
    ("mug-2", "Mug", Money.of("EUR", 12)),
    ("bowl", "bowl", Money.of("EUR", 9, 990_000_000)),
    ("cup", "Änne's cup", Money.of("USD", 1)),
    ("axe", "Axe", Money.of("EUR", 12)),
    ("fork", "Fork", Money.of("CHF", 99)),
]
IN_ORDER = [
    # Capital letters stand before small ones, and Ä behind both; the ids of the two mugs break their tie.
    (Sort.DISPLAY_NAME, ["axe", "fork", "mug", "mug-2", "bowl", "cup"]),
    # First by currency, so that 99 CHF are not more than 12 EUR.
    (Sort.PRICE, ["fork", "bowl", "axe", "mug-2", "mug", "cup"]),
    (Sort.CREATE_TIME, ["mug", "mug-2", "bowl", "cup", "axe", "fork"]),
]


@pytest.mark.parametrize(("sort", "ids"), IN_ORDER)
async def test_a_list_goes_either_way_and_ids_break_ties(catalog: Catalog, sort: Sort, ids: Sequence[str]) -> None:
    for row in SHOP:
        await add(catalog, *row)

    assert await listed(catalog, Listing(sort)) == ids
    assert await listed(catalog, Listing(sort, descending=True)) == ids[::-1]


async def test_archived_products_are_listed_for_whoever_asks(catalog: Catalog) -> None:
    for id in ("bowl", "cup", "mug"):
        await add(catalog, id)
    await Curating(catalog).archive("cup", "")

    for listing in ORDERS:
        assert set(await listed(catalog, listing)) == {"bowl", "mug"}
        assert set(await listed(catalog, replace(listing, show_archived=True))) == {"bowl", "cup", "mug"}


def newcomers() -> Iterator[tuple[str, str, Money]]:
    """Products that stand at the beginning, in the middle and at the end of every list but that by time."""
    for number, (name, euros) in enumerate(combinations(("Aaa", "Mmm", "Zzz"), (1, 50, 99))):
        yield f"new-{number}", name, Money.of("EUR", euros)


@pytest.mark.parametrize("listing", ORDERS)
async def test_pages_stay_stable_while_products_come_and_go(catalog: Catalog, listing: Listing) -> None:
    # Names and prices twice each: pages end amid ties.
    for number in range(20):
        await add(catalog, f"p-{number:02}", f"Item {number // 2}", Money.of("EUR", 40 + number // 2))
    staying = [id for id in await listed(catalog, listing) if int(id[2:]) % 5]
    leaving = iter([id for id in await listed(catalog, listing) if not int(id[2:]) % 5])
    new, seen, after = newcomers(), list[str](), None

    while True:
        page, after = await Browsing(catalog).page(listing, after, 3)
        seen += [product.id for product in page]
        if row := next(new, None):
            await add(catalog, *row)
        # Also the one that the last page ended with may go.
        if gone := seen[-1] if seen[-1] not in staying else next(leaving, None):
            await Curating(catalog).archive(gone, "")
        if after is None:
            break

    assert [id for id in seen if id in staying] == staying
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("listing", ORDERS)
async def test_the_last_page_may_be_full(catalog: Catalog, listing: Listing) -> None:
    for id in ("bowl", "cup", "mug", "pan"):
        await add(catalog, id)
    after: Place | None = None

    _, after = await Browsing(catalog).page(listing, after, 2)
    assert after is not None
    page, after = await Browsing(catalog).page(listing, after, 2)

    assert (len(page), after) == (2, None)


TEA = [
    ("blue-mug", "Blue Mug", "A mug of stoneware that holds tea."),
    ("chef-knife", "Chef's Knife, 20 cm", "Forged from one piece of steel."),
    ("grinder", "Hand Grinder", "Steel burrs, for coffee."),
    ("tea-tin", "Tea Tin", "Änne's own leaves; malty & strong."),
]
FOUND = [
    ((), ["blue-mug", "chef-knife", "grinder", "tea-tin"]),
    (("mug",), ["blue-mug"]),
    (("MUG",), ["blue-mug"]),
    (("tea", "axe"), []),
    (("blue", "mug"), ["blue-mug"]),
    (("zebra",), []),
    (("tin", "zebra"), []),
]
FOUND_BY_POSTGRESQL = [
    # In any form.
    (("mugs",), ["blue-mug"]),
    (("pieces",), ["chef-knife"]),
    (("forging",), ["chef-knife"]),
    (("änne",), ["tea-tin"]),
    # Begun or mistyped, in the name only.
    (("grindr",), ["grinder"]),
    (("kni",), ["chef-knife"]),
    (("stel",), []),
    # All of them, wherever they stand.
    (("tea",), ["blue-mug", "tea-tin"]),
    (("tea", "holds"), ["blue-mug"]),
    (("steel", "grindr"), ["grinder"]),
    (("steel", "mug"), []),
    # Words that say nothing, and what is no word.
    (("the", "mug", "of"), ["blue-mug"]),
    (("the",), ["blue-mug", "chef-knife", "grinder", "tea-tin"]),
    (("malty", "&", "'"), ["tea-tin"]),
    (("tea:*", "|", "!holds", "'"), ["blue-mug"]),
    (("%",), ["blue-mug", "chef-knife", "grinder", "tea-tin"]),
    (("$1",), []),
    (("'; drop table products; --",), []),
]


@pytest.mark.parametrize(("words", "ids"), FOUND)
async def test_a_list_has_the_products_with_all_the_words(
    catalog: Catalog, words: tuple[str, ...], ids: Sequence[str]
) -> None:
    for id, name, text in TEA:
        await add(catalog, id, name, text=text)

    assert await listed(catalog, Listing(words=words)) == ids


@pytest.mark.parametrize(("words", "ids"), FOUND_BY_POSTGRESQL)
async def test_words_are_found_in_other_forms_and_nearly(
    database: Database, words: tuple[str, ...], ids: Sequence[str]
) -> None:
    catalog = SqlCatalog(database)
    for id, name, text in TEA:
        await add(catalog, id, name, text=text)

    assert await listed(catalog, Listing(words=words)) == ids


async def test_words_filter_and_never_rank(database: Database) -> None:
    catalog = SqlCatalog(database)
    await add(catalog, "a", "Jar", text="Not quite a mug.")
    await add(catalog, "b", "Mug Mug Mug", text="Mug, mug, mug.")
    await Curating(catalog).archive("b", "")
    await add(catalog, "c", "Mug")

    assert await listed(catalog, Listing(words=("mug",))) == ["a", "c"]
    assert await listed(catalog, Listing(words=("mug",), show_archived=True)) == ["a", "c", "b"]
    assert await listed(catalog, Listing(Sort.CREATE_TIME, descending=True, words=("mug",))) == ["c", "a"]


async def test_a_changed_product_is_found_by_its_new_words_alone(database: Database) -> None:
    catalog = SqlCatalog(database)
    await add(catalog, "mug", "Mug", text="Holds tea.")
    mug = await catalog.get("mug")

    await catalog.save(replace(mug, description=replace(mug.description, display_name="Cup", text="Holds coffee.")))

    assert await listed(catalog, Listing(words=("mug",))) == []
    assert await listed(catalog, Listing(words=("coffee", "cup"))) == ["mug"]
