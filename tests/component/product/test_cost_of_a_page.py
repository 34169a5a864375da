"""What a page of a large catalogue costs, by PostgreSQL's own account: page 400 is as cheap as the first."""

from collections.abc import AsyncIterator

import pytest

from services.chassis.database import Database
from services.product.domain import Listing, Place, Sort
from services.product.store import SqlCatalog, page_statement
from tests.support.plans import Step, plan
from tests.support.postgres import Postgres

ROWS, ARCHIVED, PAGE = 20_000, 10_000, 20
# What is archived is the older half, the first by name, and the cheaper.
FILL = """
insert into products (
  id, display_name, description, currency, units, nanos, image_uri, archived, create_time,
  creator, request_id, request_fingerprint
)
select
  'p-' || n, 'Item ' || lpad((n / 2)::text, 5, '0'), 'Number ' || n || case n % 1000 when 0 then ' rare' else '' end,
  'EUR', n / 3 + 1, 0, '', n <= $2, now() + n * interval '1 second', 'carol', n, ''
from generate_series(1, $1::int) as n"""
ORDERS = [Listing(sort, descending, show_archived=archived)
          for sort in Sort for descending in (False, True) for archived in (False, True)]  # fmt: skip


@pytest.fixture(scope="module")
async def large(postgres: Postgres) -> AsyncIterator[Database]:
    async with postgres.database("services.product") as database:
        await database.execute(FILL, ROWS, ARCHIVED)
        await database.execute("analyze products")
        yield database


async def page_plan(database: Database, listing: Listing, after: Place | None, plans: str = "auto") -> list[Step]:
    statement, arguments = page_statement(listing, after, PAGE + 1)
    return await plan(database, statement, *arguments, plans=plans)


async def deep(database: Database, listing: Listing) -> Place:
    """The place behind which page 400 begins."""
    return listing.place_of((await SqlCatalog(database).page(listing, None, 400 * PAGE))[-1])


@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("listing", ORDERS)
async def test_a_page_reads_what_it_returns_wherever_it_lies(large: Database, listing: Listing, plans: str) -> None:
    for after in (None, await deep(large, listing)):
        limit, scan = await page_plan(large, listing, after, plans)

        assert (limit.kind, scan.kind) == ("Limit", "Index Scan")
        assert (scan.rows, scan.filtered) == (PAGE + 1, 0)
        assert limit.blocks < 2 * PAGE


@pytest.mark.parametrize("listing", ORDERS)
async def test_few_hits_are_taken_from_the_indexes_of_words(large: Database, listing: Listing) -> None:
    steps = await page_plan(large, Listing(listing.sort, listing.descending, ("rare",), listing.show_archived), None)

    assert {step.index for step in steps if step.index} == {"products_by_words", "products_by_trigrams"}
    [found] = [step for step in steps if step.kind == "Bitmap Heap Scan"]
    assert found.rows == (20 if listing.show_archived else 10)


async def test_many_hits_are_read_until_the_page_is_full(large: Database) -> None:
    steps = await page_plan(large, Listing(words=("number",)), None)

    assert [step.kind for step in steps] == ["Limit", "Index Scan"]
    assert steps[-1].rows == PAGE + 1
