"""What a page of many, and a claim of many, costs by PostgreSQL's own account: no more than of a few."""

from collections.abc import AsyncIterator

import pytest

from services.chassis.database import Database
from services.notification.store import CLAIM, OPEN_PAGE, PAGE, SqlNotifications
from tests.support.plans import Step, plan
from tests.support.postgres import Postgres

ROWS, SIZE = 20_000, 20
FILL = """
insert into notifications (id, order_id, kind, version, customer, recipient, subject, body, event_type, event_id, state,
  create_time)
select gen_random_uuid(), gen_random_uuid(), 'ORDER_PLACED', 1, case n % 10 when 0 then 'bob' else 'ann' end,
  'ann@example.com', 'Your order', 'Hello', 'shop.order.v1.OrderPlaced', n, $2, now() - n / 3 * interval '1 second'
from generate_series(1, $1::int) as n"""

BURY = """
insert into dead_letters (id, event_type, event_id, reason, attempts, state, create_time)
select gen_random_uuid(), 'shop.order.v1.OrderPlaced', n, '550 no', 1,
  case n % 10 when 0 then 'OPEN' else 'REDRIVEN' end, now() - n / 3 * interval '1 second'
from generate_series(1, $1::int) as n"""


INDEXES_OF_A_CLAIM = {None, "due", "inbox", "notifications_pkey", "one_at_a_time"}


@pytest.fixture(scope="module")
async def large(postgres: Postgres) -> AsyncIterator[Database]:
    async with postgres.database("services.notification") as database:
        await database.execute(FILL, ROWS, "SENT")
        await database.execute(BURY, ROWS)
        await database.execute("vacuum analyze")
        yield database


@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("behind", [0, SIZE, 890 * SIZE])
async def test_a_page_reads_what_it_returns_wherever_it_lies(large: Database, behind: int, plans: str) -> None:
    shown = await SqlNotifications(large).page("ann", behind, None)
    after = (shown[-1].create_time, shown[-1].id) if shown else (None, None)

    steps = await plan(large, PAGE, "ann", SIZE + 1, *after, plans=plans)

    assert [step.kind for step in steps] == ["Limit", "Index Scan"]
    assert steps[-1] == Step("Index Scan", index="history", rows=SIZE + 1, filtered=0, blocks=steps[-1].blocks)
    assert steps[-1].blocks < 2 * SIZE


@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("behind", [0, 90 * SIZE])
async def test_a_page_of_dead_letters_reads_none_that_has_left_the_list(
    large: Database, behind: int, plans: str
) -> None:
    shown = await SqlNotifications(large).open_page(behind, None)
    after = (shown[-1].create_time, shown[-1].id) if shown else (None, None)

    steps = await plan(large, OPEN_PAGE, SIZE + 1, *after, plans=plans)

    assert [step.kind for step in steps] == ["Limit", "Index Scan"]
    assert steps[-1] == Step("Index Scan", "open_dead_letters", rows=SIZE + 1, filtered=0, blocks=steps[-1].blocks)
    assert steps[-1].blocks < 2 * SIZE


@pytest.mark.parametrize("analyzed", ["never", "while nothing waited", "while all waited"])
async def test_a_claim_reads_what_it_takes_whatever_the_planner_was_told(postgres: Postgres, analyzed: str) -> None:
    """As autovacuum comes by or not, before a mail server goes away or while it is."""
    async with postgres.database("services.notification") as database:
        await database.execute("alter table notifications set (autovacuum_enabled = off)")
        if analyzed == "while nothing waited":
            await database.execute(FILL, 1_000, "SENT")
            await database.execute("vacuum analyze notifications")
        await database.execute(FILL, ROWS, "READY")
        if analyzed == "while all waited":
            await database.execute("vacuum analyze notifications")

        for uses in (0, 10):
            steps = await plan(database, CLAIM, SIZE, "1 min", uses=uses)
            assert steps[0].rows == SIZE
            assert {step.index for step in steps if "Scan" in step.kind} <= INDEXES_OF_A_CLAIM
            assert max(step.rows + step.filtered for step in steps) < 2 * SIZE
