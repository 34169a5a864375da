"""What the pool says about statements when the server, the connection or the caller goes away."""

import asyncio
import itertools
import random
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from services.chassis import database as module
from services.chassis.database import Connection, Database, DatabaseUnavailable, MigrationChanged, OutcomeUnknown
from tests.support.postgres import Postgres, running_postgres
from tests.support.proxy import proxy_to
from tests.support.waiting import eventually


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[Database]:
    async with postgres.database() as database:
        yield database


@pytest.fixture(scope="module")
def fragile() -> Iterator[Postgres]:
    """A server of one's own, to be killed."""
    with running_postgres() as server:
        yield server


async def test_jsonb_and_times_come_back_as_they_went(database: Database) -> None:
    now = datetime.now(UTC)
    row = await database.fetchrow("select $1::jsonb as said, $2::timestamptz as at", {"lines": [1, "zwei"]}, now)
    assert row is not None
    assert row["said"] == {"lines": [1, "zwei"]}
    assert row["at"] == now
    assert row["at"].utcoffset().total_seconds() == 0


async def test_more_callers_than_connections_take_turns(database: Database) -> None:
    answers = await asyncio.gather(*(database.fetchval("select $1::int", n) for n in range(100)))
    assert answers == list(range(100))
    connections = await database.fetchval("select count(*) from pg_stat_activity where datname = current_database()")
    assert connections <= 8


async def test_a_refused_statement_keeps_its_connection(database: Database) -> None:
    pid = await database.fetchval("select pg_backend_pid()")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await database.fetchval("select 1 / 0")
    assert await database.fetchval("select pg_backend_pid()") == pid


async def test_a_cancelled_statement_ends_its_connection_and_its_wait_for_a_lock(database: Database) -> None:
    await database.execute("create table t (n int)")
    await database.execute("insert into t values (1)")
    async with database.transaction() as holder:
        await holder.execute("select n from t for update")
        waiting = asyncio.create_task(database.execute("update t set n = 2"))

        async def waits() -> bool:
            return bool(
                await database.fetchval(
                    "select count(*) from pg_stat_activity"
                    " where datname = current_database() and wait_event_type = 'Lock'"
                )
            )

        async def waits_no_more() -> bool:
            return not await waits()

        await eventually(waits, "the update waits for the row")
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        assert waiting.cancelled()
        await eventually(waits_no_more, "the server has given the update up")
    assert await database.fetchval("select n from t") == 1


async def test_a_statement_past_its_time_is_in_doubt_and_hurts_no_other(database: Database) -> None:
    with pytest.raises(OutcomeUnknown):
        await database.fetch("select pg_sleep(30)", timeout_s=0.1)
    assert await database.fetchval("select 1") == 1


async def test_what_the_server_gave_up_is_not_done(database: Database) -> None:
    await database.execute("set statement_timeout = '20ms'")
    with pytest.raises(DatabaseUnavailable) as refusal:
        await database.fetch("select pg_sleep(5)")
    assert not isinstance(refusal.value, OutcomeUnknown)


async def test_a_transaction_is_done_or_not(database: Database) -> None:
    await database.execute("create table t (n int primary key)")
    async with database.transaction() as connection:
        await connection.execute("insert into t values (1)")
    with pytest.raises(ZeroDivisionError):
        await _insert(database, 2, lambda: 1 / 0)
    with pytest.raises(asyncpg.UniqueViolationError):
        await _insert(database, 3, 1)
    assert [row["n"] for row in await database.fetch("select n from t")] == [1]


async def test_a_transaction_whose_error_was_passed_over_does_not_look_committed(database: Database) -> None:
    await database.execute("create table t (n int)")

    async def pass_over() -> None:
        async with database.transaction() as connection:
            await connection.execute("insert into t values (1)")
            with suppress(asyncpg.DivisionByZeroError):
                await connection.execute("select 1 / 0")

    with pytest.raises(RuntimeError, match="passed over"):
        await pass_over()
    assert await database.fetchval("select count(*) from t") == 0


async def test_a_transaction_left_open_by_a_busy_caller_is_surely_not_done(database: Database) -> None:
    await database.execute("create table t (n int)")

    async def dawdle() -> None:
        async with database.transaction() as connection:
            await connection.execute("set local idle_in_transaction_session_timeout = '20ms'")
            await connection.execute("insert into t values (1)")
            await eventually(lambda: _is_closed(connection), "the server has ended the connection")

    with pytest.raises(DatabaseUnavailable) as refusal:
        await dawdle()
    assert not isinstance(refusal.value, OutcomeUnknown)
    assert await database.fetchval("select count(*) from t") == 0


async def test_a_connection_lost_before_the_commit_is_surely_not_done(database: Database) -> None:
    await database.execute("create table t (n int)")

    async def lose() -> None:
        async with database.transaction() as connection:
            await connection.execute("insert into t values (1)")
            await database.execute("select pg_terminate_backend($1, 5000)", connection.get_server_pid())
            await connection.execute("insert into t values (2)")

    with pytest.raises(DatabaseUnavailable) as refusal:
        await lose()
    assert not isinstance(refusal.value, OutcomeUnknown)
    assert await database.fetchval("select count(*) from t") == 0


async def test_a_connection_lost_in_the_commit_is_in_doubt(database: Database) -> None:
    await database.execute("create table t (n int)")
    await database.execute("""
        create function wait() returns trigger language plpgsql as 'begin perform pg_sleep(30); return null; end'
    """)
    await database.execute(
        "create constraint trigger slow after insert on t deferrable initially deferred"
        " for each row execute function wait()"
    )

    async def commit(pid: asyncio.Future[int]) -> None:
        async with database.transaction() as connection:
            pid.set_result(connection.get_server_pid())
            await connection.execute("insert into t values (1)")

    pid = asyncio.get_running_loop().create_future()
    committing = asyncio.create_task(commit(pid))

    async def in_commit() -> bool:
        return bool(
            await database.fetchval(
                "select wait_event = 'PgSleep' and query = 'commit' from pg_stat_activity where pid = $1", await pid
            )
        )

    await eventually(in_commit, "the commit is under way")
    await database.execute("select pg_terminate_backend($1)", await pid)
    with pytest.raises(OutcomeUnknown):
        await committing


async def test_a_statement_lost_under_way_is_in_doubt(database: Database) -> None:
    sleeping = asyncio.create_task(database.execute("select pg_sleep(30)"))

    async def end() -> bool:
        return bool(
            await database.fetchval(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where datname = current_database() and query = 'select pg_sleep(30)' and state = 'active'"
            )
        )

    await eventually(end, "the statement is under way and its backend ended")
    with pytest.raises(OutcomeUnknown):
        await sleeping


async def test_a_connection_whose_end_is_still_on_its_way_is_lost(postgres: Postgres) -> None:
    """The server's last words are there, its end is not: asyncpg takes no statement, but calls the connection open."""
    async with postgres.database() as beside, proxy_to(postgres.port) as proxy:
        name = await beside.fetchval("select current_database()")
        far = await Database.connect(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}")
        try:
            pid = await far.fetchval("select pg_backend_pid()")
            proxy.ends.clear()
            await beside.execute("select pg_terminate_backend($1, 5000)", pid)
            await asyncio.sleep(0.1)  # or it would hear of it in the answer to its statement
            with pytest.raises(DatabaseUnavailable):
                await far.fetchval("select 1")
            assert await far.fetchval("select 1") == 1
        finally:
            proxy.ends.set()
            await far.close()


async def test_a_killed_server_is_away_and_then_back(fragile: Postgres) -> None:
    async with fragile.database() as database:
        await asyncio.gather(*(database.fetchval("select pg_sleep(0.01)") for _ in range(20)))
        fragile.kill()
        with pytest.raises(DatabaseUnavailable):
            await database.fetchval("select 1")
        with pytest.raises(DatabaseUnavailable) as refusal:
            await database.fetchval("select 1")
        assert not isinstance(refusal.value, OutcomeUnknown)
        with pytest.raises(DatabaseUnavailable):
            async with database.transaction():
                pass
        fragile.start()

        async def back() -> bool:
            with suppress(DatabaseUnavailable):
                return bool(await database.fetchval("select 1"))
            return False

        await eventually(back, "the database answers again")
        assert await asyncio.gather(*(database.fetchval("select 1") for _ in range(50))) == [1] * 50


async def test_a_frozen_server_is_away_within_bounds(fragile: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.3)
    monkeypatch.setattr(module, "TURN_S", 0.2)
    async with fragile.database() as database:
        fragile.freeze()
        try:
            asked = [database.fetchval("select 1", timeout_s=0.5) for _ in range(30)]
            async with asyncio.timeout(10):
                answers = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            fragile.thaw()
        assert {type(answer) for answer in answers} <= {DatabaseUnavailable, OutcomeUnknown}
        assert await database.fetchval("select 1") == 1


async def test_every_word_about_a_statement_is_true_when_the_server_is_killed_under_load(fragile: Postgres) -> None:
    """Answered: it is there. DatabaseUnavailable: it is not. OutcomeUnknown: it may be."""
    done: set[int] = set()
    undone: set[int] = set()
    numbers = itertools.count()
    async with fragile.database() as database:
        await database.execute("create table t (n int primary key)")

        async def insert_for_ever() -> None:
            while True:
                n = next(numbers)
                try:
                    if n % 2:
                        await database.execute("insert into t values ($1)", n)
                    else:
                        await _insert(database, n)
                except OutcomeUnknown:
                    pass
                except DatabaseUnavailable:
                    undone.add(n)
                    await asyncio.sleep(0)
                else:
                    done.add(n)

        writers = [asyncio.create_task(insert_for_ever()) for _ in range(16)]
        for _ in range(3):
            before = len(done)
            await eventually(lambda before=before: _true(len(done) > before + 200), "rows are written")  # type: ignore[misc]
            fragile.kill()
            refused = len(undone)
            await eventually(lambda refused=refused: _true(len(undone) > refused + 20), "callers hear of it")  # type: ignore[misc]
            fragile.start()
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        there = {row["n"] for row in await database.fetch("select n from t")}
    assert done <= there
    assert not undone & there


async def test_cancelled_callers_take_no_place_with_them(database: Database) -> None:
    chance = random.Random(7)
    for _ in range(20):
        tasks = [asyncio.create_task(database.fetchval("select pg_sleep(0.002)")) for _ in range(40)]
        for task in chance.sample(tasks, 30):
            asyncio.get_running_loop().call_later(chance.uniform(0, 0.02), task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
    gate = asyncio.Barrier(8)

    async def hold() -> None:
        async with database.transaction() as connection:
            await connection.execute("select 1")
            await gate.wait()  # only passes when eight are here at once

    async with asyncio.timeout(30):
        await asyncio.gather(*(hold() for _ in range(8)))


async def test_connecting_waits_for_a_server_that_starts_later(fragile: Postgres) -> None:
    url = fragile.url("postgres")
    fragile.stop()
    connecting = asyncio.create_task(Database.connect(url))
    await asyncio.wait([connecting], timeout=0.2)
    assert not connecting.done()
    fragile.start()
    database = await connecting
    assert await database.fetchval("select 1") == 1
    await database.close()


async def test_migrations_run_once_whole_and_unchanged(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations = tmp_path / "fruit" / "migrations"
    migrations.mkdir(parents=True)
    (migrations.parent / "__init__.py").touch()
    (migrations / "0001_apples.sql").write_text("create table apples (n int); insert into apples values (1);")
    (migrations / "0002_more.sql").write_text("insert into apples select n + 1 from apples;")
    monkeypatch.syspath_prepend(tmp_path)

    url = await postgres.make()
    replicas = [await Database.connect(url) for _ in range(4)]
    await asyncio.gather(*(replica.migrate("fruit") for replica in replicas))
    assert [row["n"] for row in await replicas[0].fetch("select n from apples order by n")] == [1, 2]

    (migrations / "0003_bad.sql").write_text("insert into apples values (3); insert into pears values (1);")
    with pytest.raises(asyncpg.UndefinedTableError):
        await replicas[1].migrate("fruit")
    assert await replicas[0].fetchval("select count(*) from apples") == 2, "half a migration is none"
    assert await replicas[0].fetchval("select count(*) from migrations") == 2

    (migrations / "0002_more.sql").write_text("insert into apples select n + 2 from apples;")
    with pytest.raises(MigrationChanged, match=r"another 0002_more\.sql than"):
        await replicas[2].migrate("fruit")
    (migrations / "0002_more.sql").unlink()
    (migrations / "0003_bad.sql").unlink()
    await replicas[3].migrate("fruit")  # a newer version beside us has run 0002
    for replica in replicas:
        await replica.close()


async def _insert(database: Database, *steps: int | Callable[[], object]) -> None:
    async with database.transaction() as connection:
        for step in steps:
            if callable(step):
                step()
            else:
                await connection.execute("insert into t values ($1)", step)


async def _is_closed(connection: Connection) -> bool:
    return connection.is_closed()


async def _true(answer: bool) -> bool:
    return answer


async def test_what_is_told_of_an_error_quotes_neither_row_nor_argument(database: Database, postgres: Postgres) -> None:
    secret = "ann@example.com"
    await database.execute("create table mails (address text check (length(address) < 9))")
    told = list[BaseException]()

    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await database.execute("insert into mails values ($1)", secret)
    told.append(refused.value)
    with pytest.raises(asyncpg.DataError, match=r"invalid input for query argument \$1$") as garbled:
        await database.fetchval("select $1::int", secret)
    told.append(garbled.value)
    with pytest.raises(asyncpg.CheckViolationError) as undone:
        async with database.transaction() as connection:
            await connection.execute("insert into mails values ($1)", secret)
    told.append(undone.value)

    assert not [error for error in told if secret in "".join(traceback.format_exception(error))]
    log = (postgres.folder / "log").read_text()
    assert 'violates check constraint "mails_address_check"' in log
    assert secret not in log
