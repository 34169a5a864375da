"""Changing what is in the catalogue, with products in memory."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import override

import pytest

from services.money import Money
from services.product.domain import Description, Product, ProductNotFound, Revision
from services.product.use_cases import Curating
from services.refusals import EtagMismatch
from tests.support.product import MemoryCatalog

MUG = Description("Mug", "Holds tea.", Money.of("EUR", 12), "https://example.com/mug.png")
FIRST, LATER = '"1"', '"2"'

type Turn = Callable[[Curating, str, str], Awaitable[Product]]
TURNS = [(Curating.archive, True), (Curating.unarchive, False)]


async def with_mug(catalog: MemoryCatalog, *, archived: bool = False) -> Curating:
    mug = await catalog.add("mug", MUG, "carol", "r1")
    catalog.kept["mug"] = replace(mug, archived=archived)
    return Curating(catalog)


REVISIONS = [
    (Revision(display_name="Cup"), replace(MUG, display_name="Cup")),
    (Revision(text=""), replace(MUG, text="")),
    (Revision(price=Money.of("USD", 9)), replace(MUG, price=Money.of("USD", 9))),
    (Revision(image_uri=""), replace(MUG, image_uri="")),
    (Revision("Cup", "Holds all.", Money.of("EUR", 1), ""), Description("Cup", "Holds all.", Money.of("EUR", 1), "")),
]


@pytest.mark.parametrize(("revision", "wanted"), REVISIONS)
@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("etag", ["", FIRST])
async def test_a_revision_changes_what_it_names(
    revision: Revision, wanted: Description, archived: bool, etag: str
) -> None:
    curating = await with_mug(MemoryCatalog(), archived=archived)

    revised = await curating.revise("mug", revision, etag)

    assert (revised.description, revised.archived, revised.etag) == (wanted, archived, LATER)


@pytest.mark.parametrize("revision", [Revision(), Revision(display_name="Mug"), Revision(price=MUG.price)])
async def test_a_revision_that_changes_nothing_is_no_change(revision: Revision) -> None:
    catalog = MemoryCatalog()
    curating = await with_mug(catalog)
    before = catalog.kept["mug"]

    assert await curating.revise("mug", revision, FIRST) == before
    assert catalog.kept["mug"] == before


@pytest.mark.parametrize(("turn", "wanted"), TURNS)
@pytest.mark.parametrize("etag", ["", FIRST])
async def test_a_product_is_archived_and_brought_back(turn: Turn, wanted: bool, etag: str) -> None:
    curating = await with_mug(MemoryCatalog(), archived=not wanted)

    turned = await turn(curating, "mug", etag)

    assert (turned.archived, turned.description, turned.etag) == (wanted, MUG, LATER)


@pytest.mark.parametrize(("turn", "already"), TURNS)
async def test_what_is_so_already_is_left_as_it_is_whatever_the_etag(turn: Turn, already: bool) -> None:
    curating = await with_mug(MemoryCatalog(), archived=already)

    assert (await turn(curating, "mug", LATER)).etag == FIRST


CHANGES: list[tuple[str, Callable[[Curating, str], Awaitable[Product]], bool]] = [
    ("revise", lambda curating, etag: curating.revise("mug", Revision(text=""), etag), False),
    ("revise to the same", lambda curating, etag: curating.revise("mug", Revision(), etag), False),
    ("archive", lambda curating, etag: curating.archive("mug", etag), False),
    ("unarchive", lambda curating, etag: curating.unarchive("mug", etag), True),
]
NAMED = pytest.mark.parametrize(("change", "archived"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
type Change = Callable[[Curating, str], Awaitable[Product]]


@NAMED
async def test_another_etag_than_the_products_changes_nothing(change: Change, archived: bool) -> None:
    catalog = MemoryCatalog()
    curating = await with_mug(catalog, archived=archived)
    before = catalog.kept["mug"]

    with pytest.raises(EtagMismatch) as refusal:
        await change(curating, LATER)
    assert refusal.value.facts == {"product": "products/mug"}
    assert catalog.kept["mug"] == before


@NAMED
async def test_what_is_not_there_cannot_be_changed(change: Change, archived: bool) -> None:
    with pytest.raises(ProductNotFound):
        await change(Curating(MemoryCatalog()), "")


class Contested(MemoryCatalog):
    """Somebody else changes the picture whenever a product has been read, `times` in all."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times

    @override
    async def get(self, id: str) -> Product:
        product = await super().get(id)
        if self._times:
            self._times -= 1
            picture = f"https://example.com/{self._times}.png"
            await self.save(replace(product, description=replace(product.description, image_uri=picture)))
        return product


async def test_a_change_without_an_etag_is_made_to_whatever_is_there_then() -> None:
    curating = await with_mug(Contested(times=3))

    revised = await curating.revise("mug", Revision(text=""), "")

    assert revised.description == replace(MUG, text="", image_uri="https://example.com/0.png")


async def test_a_change_with_an_etag_does_not_follow_the_product() -> None:
    with pytest.raises(EtagMismatch):
        await (await with_mug(Contested(times=1))).revise("mug", Revision(text=""), FIRST)
