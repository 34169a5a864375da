"""What a page of a large catalogue costs, by PostgreSQL's own account: page 400 is as cheap as the first."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from services.chassis.database import Database
from services.product.domain import Listing, Place, Sort
from services.product.store import SqlCatalog, page_statement
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


async def plan(database: Database, listing: Listing, after: Place | None) -> list[dict[str, Any]]:
    """The steps that were taken, what each cost in it."""
    statement, arguments = page_statement(listing, after, PAGE + 1)
    told = await database.fetchval(f"explain (analyze, buffers, format json) {statement}", *arguments)
    return list(_steps(json.loads(told)[0]["Plan"]))


def _steps(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield step
    for inner in step.get("Plans", ()):
        yield from _steps(inner)


async def deep(database: Database, listing: Listing) -> Place:
    """The place behind which page 400 begins."""
    return listing.place_of((await SqlCatalog(database).page(listing, None, 400 * PAGE))[-1])


@pytest.mark.parametrize("listing", ORDERS)
async def test_a_page_reads_what_it_returns_wherever_it_lies(large: Database, listing: Listing) -> None:
    for after in (None, await deep(large, listing)):
        limit, scan = await plan(large, listing, after)

        assert limit["Node Type"] == "Limit"
        assert scan["Node Type"] == "Index Scan"
        assert (scan["Actual Rows"], scan.get("Rows Removed by Filter", 0)) == (PAGE + 1, 0)
        assert limit["Shared Hit Blocks"] + limit["Shared Read Blocks"] < 2 * PAGE


@pytest.mark.parametrize("listing", ORDERS)
async def test_few_hits_are_taken_from_the_indexes_of_words(large: Database, listing: Listing) -> None:
    steps = await plan(large, Listing(listing.sort, listing.descending, ("rare",), listing.show_archived), None)

    used = {step["Index Name"] for step in steps if "Index Name" in step}
    assert {"products_by_words", "products_by_trigrams"} == used
    [found] = [step for step in steps if step["Node Type"] == "Bitmap Heap Scan"]
    assert found["Actual Rows"] == (20 if listing.show_archived else 10)


async def test_many_hits_are_read_until_the_page_is_full(large: Database) -> None:
    steps = await plan(large, Listing(words=("number",)), None)

    assert [step["Node Type"] for step in steps] == ["Limit", "Index Scan"]
    assert steps[-1]["Actual Rows"] == PAGE + 1
