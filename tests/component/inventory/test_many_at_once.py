"""What many callers at once, on several replicas, may never do to the stock."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import cycle
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.chassis.database import Connection, Database
from services.inventory.domain import Lines, OutOfStock, Reservation, State, Stock
from services.refusals import Refusal
from tests.component.inventory.conftest import Keeper
from tests.support.postgres import Postgres
from tests.support.proxy import proxy_to
from tests.support.waiting import DEADLINE_S, eventually

TTL = timedelta(minutes=10)
OVER = timedelta(0)
A_MUG = Lines.of([("mug", 1)])
MUG_AND_BOWL = Lines.of([("mug", 1), ("bowl", 1)])


@pytest.fixture
async def replicas(in_sql: Keeper) -> AsyncIterator[Sequence[Keeper]]:
    """Two services on one database, with all their connections open."""
    assert in_sql.database
    other = await Database.connect(in_sql.database._url)
    await asyncio.gather(*(database.execute("select pg_sleep(0.1)") for database in [in_sql.database, other] * 8))
    yield in_sql, Keeper.in_sql(other)
    await other.close()


async def outcomes[T](calls: Sequence[Awaitable[T]]) -> list[T | Refusal]:
    """Of all calls at once. Whatever is no refusal is raised."""
    async with asyncio.timeout(DEADLINE_S):
        results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Refusal):
            raise result
    return [result for result in results if isinstance(result, Refusal) or not isinstance(result, BaseException)]


async def test_a_hundred_callers_for_fifty_pieces_get_exactly_fifty(replicas: Sequence[Keeper]) -> None:
    await replicas[0].stocked(mug=50)

    results = await outcomes(
        [
            replica.warehouse.reserve(uuid4(), A_MUG, TTL)
            for _, replica in zip(range(100), cycle(replicas), strict=False)
        ]
    )

    refusals = [result for result in results if isinstance(result, Refusal)]
    assert len(refusals) == 50
    assert all(refusal.facts == {"product": "products/mug", "requested": "1", "available": "0"} for refusal in refusals)
    assert {type(refusal) for refusal in refusals} == {OutOfStock}
    assert await replicas[0].counted("mug") == (50, 50)
    await replicas[0].require_consistent()


async def test_repeats_of_one_request_share_one_hold_of_the_last_piece(replicas: Sequence[Keeper]) -> None:
    for _ in range(20):
        await replicas[0].stocked(mug=1)
        id = uuid4()

        results = await outcomes([replica.warehouse.reserve(id, A_MUG, TTL) for replica in [*replicas] * 6])

        assert {type(result) for result in results} == {Reservation}
        stock = await replicas[0].stocks.get("mug")
        assert stock.available == 0
    await replicas[0].require_consistent()


async def test_crossing_carts_never_wait_for_each_other(replicas: Sequence[Keeper]) -> None:
    products = [f"product-{number}" for number in range(6)]
    await replicas[0].stocked(**dict.fromkeys(products, 400))
    ids: list[UUID] = []

    async def buy(replica: Keeper, seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(5):
            id, cart = uuid4(), Lines.of((product, 1) for product in dice.sample(products, 4))
            ids.append(id)
            await replica.warehouse.reserve(id, cart, dice.choice([TTL, OVER]))
            await dice.choice([confirm, lapse_one, adjust, release])(replica, dice)

    async def confirm(replica: Keeper, dice: random.Random) -> None:
        await replica.warehouse.confirm(dice.sample(ids, min(len(ids), 8)))

    async def lapse_one(replica: Keeper, _: random.Random) -> None:
        await replica.warehouse.lapse_one()

    async def adjust(replica: Keeper, dice: random.Random) -> None:
        await replica.stocks.adjust(dice.choice(products), dice.choice([-1, 2]), "carol", str(uuid4()))

    async def release(replica: Keeper, dice: random.Random) -> None:
        await replica.warehouse.release(dice.choice(ids))

    await outcomes([buy(replica, seed) for seed, replica in zip(range(24), cycle(replicas), strict=False)])

    await replicas[0].require_consistent()


async def test_one_adjustment_sent_fifty_times_at_once_is_made_once_and_answered_alike(
    replicas: Sequence[Keeper],
) -> None:
    results = await outcomes([replica.stocks.adjust("mug", 5, "carol", "r1") for replica in [*replicas] * 25])

    assert results == [Stock("mug", on_hand=5, reserved=0, version=1)] * 50
    await replicas[0].require_consistent()


async def test_several_reapers_end_each_hold_once(replicas: Sequence[Keeper]) -> None:
    await replicas[0].stocked(mug=30, bowl=30)
    for _ in range(30):
        await replicas[0].warehouse.reserve(uuid4(), MUG_AND_BOWL, OVER)

    async def reap(replica: Keeper) -> int:
        ended = 0
        while await replica.warehouse.lapse_one():
            ended += 1
        return ended

    ended = await outcomes([reap(replica) for replica in [*replicas] * 3])

    assert sum(count for count in ended if isinstance(count, int)) == 30
    assert await replicas[0].counted("mug") == (30, 0)
    await replicas[0].require_consistent()


# --- Each lock on its own: somebody else holds one, and a test looks at who waits for what. ---


@asynccontextmanager
async def somebody_else(database: Database) -> AsyncIterator[Connection]:
    """In a transaction that is rolled back; waits for no lock."""
    connection = await asyncpg.connect(database._url)
    try:
        await connection.execute("begin; set local lock_timeout = '1ms'")
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def waiting[T](call: Awaitable[T], database: Database) -> AsyncIterator[asyncio.Future[T]]:
    """While the call waits for a lock."""
    task = asyncio.ensure_future(call)
    await eventually(lambda: database.fetchval("select count(*) from pg_locks where not granted"), "a call waits")
    yield task
    if not task.done():
        task.cancel()
        await asyncio.wait([task])


type Call = Callable[[Keeper, UUID], Coroutine[None, None, object]]


async def confirm_held(keeper: Keeper, id: UUID) -> object:
    return await keeper.reservations.confirm_held([id])


async def confirm_under_rules(keeper: Keeper, id: UUID) -> object:
    return await keeper.reservations.change(id, lambda known, shelf, _now: known.confirmed(shelf))


async def lapse(keeper: Keeper, _id: UUID) -> object:
    return await keeper.warehouse.lapse_one()


async def reserve_anew(keeper: Keeper, _id: UUID) -> object:
    return await keeper.warehouse.reserve(uuid4(), MUG_AND_BOWL, TTL)


@pytest.mark.parametrize("call", [confirm_held, confirm_under_rules, lapse, reserve_anew])
async def test_stock_is_locked_in_the_order_of_product_ids(in_sql: Keeper, call: Call) -> None:
    assert in_sql.database
    # Stored the other way round: the order of the rows does not help.
    await in_sql.stocked(mug=9)
    await in_sql.stocked(bowl=9)
    id = uuid4()
    await in_sql.warehouse.reserve(id, MUG_AND_BOWL, OVER)

    async with somebody_else(in_sql.database) as other:
        await other.execute("select from stock where product = 'bowl' for update")
        async with waiting(call(in_sql, id), in_sql.database) as done:
            await other.execute("select from stock where product = 'mug' for update")
            await other.execute("rollback")
            await done
    await in_sql.require_consistent()


@pytest.mark.parametrize("call", [confirm_held, confirm_under_rules])
async def test_a_reservation_is_locked_before_its_stock(in_sql: Keeper, call: Call) -> None:
    assert in_sql.database
    await in_sql.stocked(mug=9, bowl=9)
    id = uuid4()
    await in_sql.warehouse.reserve(id, MUG_AND_BOWL, TTL)

    async with somebody_else(in_sql.database) as other:
        await other.execute("select from reservations where id = $1 for update", id)
        async with waiting(call(in_sql, id), in_sql.database) as done:
            await other.execute("select from stock for update")
            await other.execute("rollback")
            await done
    assert await in_sql.counted("mug") == (8, 0)


async def test_a_new_reservation_is_locked_before_its_stock(in_sql: Keeper) -> None:
    assert in_sql.database
    await in_sql.stocked(mug=9, bowl=9)
    id = uuid4()

    async with somebody_else(in_sql.database) as other:
        await other.execute(
            "insert into reservations (id, state, products, quantities) values ($1, 'RELEASED', '{}', '{}')", id
        )
        async with waiting(in_sql.warehouse.reserve(id, MUG_AND_BOWL, TTL), in_sql.database) as done:
            await other.execute("select from stock for update")
            await other.execute("rollback")
            assert (await done).state is State.HELD


async def test_a_reaper_passes_over_what_somebody_else_is_changing(in_sql: Keeper) -> None:
    assert in_sql.database
    await in_sql.stocked(mug=2)
    busy, due = uuid4(), uuid4()
    await in_sql.warehouse.reserve(busy, A_MUG, OVER)
    await in_sql.warehouse.reserve(due, A_MUG, OVER)

    async with somebody_else(in_sql.database) as other, asyncio.timeout(DEADLINE_S):
        await other.execute("select from reservations where id = $1 for update", busy)
        ended = await in_sql.reservations.change_overdue(lambda held, _shelf, _now: held.expired())
        assert ended
        assert ended.id == due
        assert not await in_sql.warehouse.lapse_one()


async def test_the_numbers_of_a_refusal_are_those_after_the_wait(in_sql: Keeper) -> None:
    assert in_sql.database
    await in_sql.stocked(mug=1, bowl=1)

    async with somebody_else(in_sql.database) as other:
        await other.execute("update stock set on_hand = 3, version = version + 1 where product = 'mug'")
        five = in_sql.warehouse.reserve(uuid4(), Lines.of([("mug", 5)]), TTL)
        async with waiting(five, in_sql.database) as done:
            await other.execute("commit")
            with pytest.raises(OutOfStock) as refusal:
                await done
    assert refusal.value.facts["available"] == "3"


async def test_the_database_itself_refuses_to_promise_what_is_not_there(in_sql: Keeper) -> None:
    assert in_sql.database
    await in_sql.stocked(mug=1)
    for change in ("reserved = 2", "reserved = -1", "on_hand = -1"):
        with pytest.raises(asyncpg.CheckViolationError):
            await in_sql.database.execute(f"update stock set {change}")


async def test_a_hold_whose_pieces_were_taken_while_it_waited_fails_as_a_whole(in_sql: Keeper) -> None:
    assert in_sql.database
    await in_sql.stocked(mug=1, bowl=1)
    id = uuid4()

    async with somebody_else(in_sql.database) as other:
        await other.execute("update stock set reserved = 1, version = version + 1 where product = 'mug'")
        async with waiting(in_sql.reservations.hold(id, MUG_AND_BOWL, TTL), in_sql.database) as done:
            await other.execute("commit")
            assert await done is None
    assert await in_sql.counted("bowl") == (1, 0)
    assert (await in_sql.warehouse.release(id)).lines == Lines()


# --- The key of an adjustment settles what the wire left open. ---


async def test_an_adjustment_whose_commit_was_not_answered_is_found_by_the_key_of_its_request(
    postgres: Postgres, in_sql: Keeper
) -> None:
    assert in_sql.database
    async with proxy_to(postgres.port) as proxy:
        far = await Database.connect(in_sql.database._url.replace(f":{postgres.port}/", f":{proxy.port}/"))
        try:
            stocks = Keeper.in_sql(far).stocks
            proxy.word_to_lose = b"COMMIT"

            adjusted = await stocks.adjust("mug", 5, "carol", "r1")
        finally:
            await far.close()

    assert not proxy.word_to_lose, "the answer to the commit was lost"
    assert adjusted == Stock("mug", on_hand=5, reserved=0, version=1)
    assert await in_sql.counted("mug") == (5, 0)
    await in_sql.require_consistent()
