"""The commit of an order when the database, or the wire to it, fails at the worst moment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from services.chassis.database import Database
from services.order.domain import Order, OrderCancelled, OrderPlaced
from services.order.store import SqlOrders
from services.order.use_cases import Ordering
from services.refusals import Unavailable
from tests.support.postgres import Postgres
from tests.support.proxy import Proxy, proxy_to
from tests.support.waiting import eventually
from tests.unit.order.fakes import MUG_AND_TEAPOT, ONE_O_CLOCK, TERMS, Catalogue, Warehouse, order


def sql_orders(database: Database) -> SqlOrders:
    return SqlOrders(database, committed=lambda: None)


async def add(orders: SqlOrders, placed: Order, request_id: str) -> Order:
    return await orders.add(placed, OrderPlaced(placed), request_id)


@asynccontextmanager
async def through_a_proxy(postgres: Postgres, database: Database) -> AsyncIterator[tuple[Proxy, SqlOrders]]:
    name = await database.fetchval("select current_database()")
    async with proxy_to(postgres.port) as proxy:
        far = await Database.connect(f"postgresql://order@127.0.0.1:{proxy.port}/{name}")
        try:
            yield proxy, sql_orders(far)
        finally:
            await far.close()


async def test_an_order_whose_commit_was_not_answered_is_found_by_its_key(
    postgres: Postgres, database: Database
) -> None:
    async with through_a_proxy(postgres, database) as (proxy, orders):
        await add(orders, order(request_id="r0"), "r0")  # The statement is prepared: one round trip from now on.
        proxy.answers_to_lose = 1

        placed = await add(orders, order(), "r1")

    assert placed == order()
    assert proxy.answers_to_lose == 0, "the first answer was lost"
    assert await database.fetchval("select count(*) from orders where request_id = 'r1'") == 1
    assert await database.fetchval("select count(*) from order_events where order_id = $1", placed.id) == 1


async def test_a_commit_that_stays_in_doubt_is_unavailable_and_can_be_repeated(
    postgres: Postgres, database: Database
) -> None:
    async with through_a_proxy(postgres, database) as (proxy, orders):
        await add(orders, order(request_id="r0"), "r0")
        proxy.answers_to_lose = 2

        with pytest.raises(Unavailable):
            await add(orders, order(), "r1")

        assert await add(orders, order(), "r1") == order()
    assert await database.fetchval("select count(*) from orders where request_id = 'r1'") == 1


async def test_a_change_whose_commit_was_not_answered_is_found_in_the_row(
    postgres: Postgres, database: Database
) -> None:
    async with through_a_proxy(postgres, database) as (proxy, orders):
        desk = Ordering(orders, Catalogue(), Warehouse(), lambda: TERMS, lambda: ONE_O_CLOCK, lambda: 5.0)
        first, second = [await add(orders, order(request_id=id), id) for id in ("r0", "r1")]
        await desk.cancel(first.id, "ann")  # Its statements are prepared: one round trip each from now on.
        proxy.answers_to_lose = 1

        changed = await orders.change(OrderCancelled(second.cancel(ONE_O_CLOCK)))
        cancelled = await desk.cancel(second.id, "ann")

    assert not changed, "the repeat finds the version that the first try has left"
    assert cancelled == second.cancel(ONE_O_CLOCK)
    assert await database.fetchval("select count(*) from order_events where order_id = $1", second.id) == 2


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_who_meets_a_commit_under_way_waits_and_hears_how_it_ended(
    postgres: Postgres, database: Database, ends: str
) -> None:
    first, second = order(MUG_AND_TEAPOT), order()
    await add(sql_orders(database), first, "r0")
    connection = await asyncpg.connect(postgres.url(await database.fetchval("select current_database()")))
    try:
        # A first try that has written and not yet committed: what a look-up sees of it is nothing.
        await connection.execute(f"begin; update orders set request_id = 'r1' where id = '{first.id}'")
        trying = asyncio.create_task(add(sql_orders(database), second, "r1"))

        async def waits() -> bool:
            return bool(await database.fetchval("select true from pg_locks where not granted limit 1"))

        await eventually(waits, "the second try waits for the first")
        await connection.execute(ends)
        kept = await trying
    finally:
        await connection.close()

    assert kept.id == (first.id if ends == "commit" else second.id)


async def test_a_change_without_its_announcement_is_not_kept(database: Database) -> None:
    orders, placed = sql_orders(database), order()
    await add(orders, placed, "r1")
    await database.execute("insert into order_events (order_id, version) values ($1, 2)", placed.id)

    with pytest.raises(asyncpg.UniqueViolationError):
        await orders.change(OrderCancelled(placed.cancel(ONE_O_CLOCK)))

    assert await orders.get(placed.id, "ann") == placed


async def test_an_order_without_its_announcement_is_not_kept(database: Database) -> None:
    orders, placed = sql_orders(database), order()
    await database.execute("insert into order_events (order_id, version) values ($1, 1)", placed.id)

    with pytest.raises(asyncpg.UniqueViolationError):
        await add(orders, placed, "r1")

    assert await orders.by_request("ann", "r1") is None
