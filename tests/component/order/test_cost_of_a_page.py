"""What a page of one customer's many orders costs, by PostgreSQL's own account: page 890 is as cheap as the first."""

from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

import pytest

from services.chassis.database import Database
from services.order.store import NEWEST, SqlOrders
from tests.support.plans import Step, plan
from tests.support.postgres import Postgres

ROWS, PAGE = 20_000, 20
# Nine of ten are ann's; always three were placed at one moment.
FILL = """
insert into orders (id, customer, request_id, email, state, version, lines, total_currency, total_units, total_nanos,
  create_time, update_time)
select gen_random_uuid(), case n % 10 when 0 then 'bob' else 'ann' end, n, 'ann@example.com', 'PLACED', 1,
  '[{"product": "mug", "display_name": "Mug", "quantity": 1, "units": 5, "nanos": 0}]', 'EUR', 5, 0,
  now() - n / 3 * interval '1 second', now()
from generate_series(1, $1::int) as n"""


@pytest.fixture(scope="module")
async def large(postgres: Postgres) -> AsyncIterator[Database]:
    async with postgres.database("services.order") as database:
        await database.execute(FILL, ROWS)
        await database.execute("vacuum analyze orders")
        yield database


async def last_of(database: Database, orders: int) -> tuple[datetime, UUID]:
    """The place behind so many of ann's."""
    last = (await SqlOrders(database, committed=lambda: None).newest("ann", orders, None))[-1]
    return last.create_time, last.id


@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("behind", [0, PAGE, 890 * PAGE])
async def test_a_page_reads_what_it_returns_wherever_it_lies(large: Database, behind: int, plans: str) -> None:
    before = await last_of(large, behind) if behind else (None, None)

    steps = await plan(large, NEWEST, "ann", PAGE + 1, *before, plans=plans)

    assert [step.kind for step in steps] == ["Limit", "Index Scan"]
    assert steps[-1] == Step("Index Scan", index="orders_newest", rows=PAGE + 1, filtered=0, blocks=steps[-1].blocks)
    assert steps[-1].blocks < 2 * PAGE


async def test_all_pages_together_show_each_order_once_and_nobody_elses(large: Database) -> None:
    orders, seen, before = SqlOrders(large, committed=lambda: None), set[UUID](), None
    while page := await orders.newest("ann", 500, before):
        assert {one.customer.id for one in page} == {"ann"}
        assert seen.isdisjoint(one.id for one in page)
        seen |= {one.id for one in page}
        before = page[-1].create_time, page[-1].id

    assert len(seen) == ROWS * 9 // 10
