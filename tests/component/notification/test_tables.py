"""What only PostgreSQL shows: rows that people look at, and what holds when several work at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.chassis.database import Database, DatabaseUnavailable
from services.notification.domain import Garbled, News, State, Unkeepable, Verdict
from services.notification.store import SqlNotifications
from tests.support.notification import A_WHILE, NO_TIME, claimed, event, keep, placed, rejected
from tests.support.postgres import Postgres
from tests.support.waiting import eventually


async def test_possible_duplicates_are_counted_on_the_row(database: Database) -> None:
    notifications = SqlNotifications(database)
    await keep(notifications, placed())
    await claimed(notifications, lease=NO_TIME)
    [attempt] = await claimed(notifications, lease=NO_TIME)
    await notifications.settle([Verdict(attempt, State.READY, NO_TIME, "lost", in_doubt=True)])
    await claimed(notifications)

    row = await database.fetchrow("select attempts, possible_duplicates, last_error from audit_notifications")

    assert row is not None
    assert tuple(row) == (3, 2, "lost")


async def test_a_mail_that_failed_leaves_one_dead_letter_that_names_its_event(database: Database) -> None:
    notifications, news = SqlNotifications(database), placed()
    await keep(notifications, news)
    [attempt] = await claimed(notifications)

    for _ in range(2):
        await notifications.settle([Verdict(attempt, State.FAILED, error="550 no such user")])

    [dead] = await database.fetch("select * from dead_letters")
    assert (dead["notification_id"], dead["order_id"]) == (news.notification_id, news.order_id)
    assert (dead["event_type"], dead["event_id"]) == (news.event.type, news.event.id)
    assert (dead["reason"], dead["attempts"]) == ("550 no such user", 1)


async def test_an_event_that_is_garbled_is_buried_once_with_all_that_came(database: Database) -> None:
    notifications = SqlNotifications(database)
    garbled = Garbled(event(payload=b"\xff\x00", traceparent="00-\0-01", odd="\ud800"), "no protobuf: \0")

    await notifications.bury([garbled])
    await notifications.bury([garbled, Garbled(event(), "another")])

    dead = await database.fetchrow("select * from dead_letters where event_id = $1", garbled.event.id)
    assert dead is not None
    assert (dead["event_type"], dead["payload"]) == (garbled.event.type, b"\xff\x00")
    assert dead["headers"] == {"traceparent": "00-\\0-01", "odd": "\\ud800"}
    assert await database.fetchval("select count(*) from dead_letters") == 2


async def test_the_view_for_audits_is_open_to_its_role_and_the_tables_are_not(
    postgres: Postgres, database: Database
) -> None:
    name = await database.fetchval("select current_database()")
    auditor = await Database.connect(postgres.url(name, "audit"))
    try:
        assert await auditor.fetch("select notification_id, state, create_time from audit_notifications") == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await auditor.fetch("select * from notifications")
    finally:
        await auditor.close()


@pytest.mark.parametrize(
    "customer",
    ["\0", "\ud800", "".join(str(uuid4()) for _ in range(300))],
    ids=["no text", "half a character", "too long for an index"],
)
async def test_what_the_table_will_never_take_is_the_fault_of_the_news(database: Database, customer: str) -> None:
    with pytest.raises(Unkeepable):
        await keep(SqlNotifications(database), placed(customer=customer))


async def test_a_database_that_is_away_is_not_the_fault_of_the_news(postgres: Postgres) -> None:
    away = Database(postgres.url("no_such_database"), 1)

    with pytest.raises(DatabaseUnavailable):
        await keep(SqlNotifications(away), placed())


# --- Several at once ---


@asynccontextmanager
async def lock_held_on(database: Database, news: News) -> AsyncIterator[None]:
    async with database.transaction() as transaction:
        await transaction.execute("select from notifications where id = $1 for update", news.notification_id)
        yield


async def test_consumers_that_hear_the_same_at_once_keep_it_once(database: Database) -> None:
    notifications = SqlNotifications(database)
    news = [placed() for _ in range(20)]

    await asyncio.gather(*(keep(notifications, *news) for _ in range(8)))

    assert await database.fetchval("select count(*) from notifications") == 20


async def test_senders_pass_by_what_another_is_claiming(database: Database) -> None:
    notifications, busy, free = SqlNotifications(database), placed(), placed()
    await keep(notifications, busy, free)

    async with lock_held_on(database, busy), asyncio.timeout(5):
        [attempt] = await claimed(notifications)

    assert attempt.notification_id == free.notification_id


async def test_many_senders_send_each_mail_once_and_each_order_one_at_a_time(database: Database) -> None:
    notifications = SqlNotifications(database)
    first = [placed() for _ in range(40)]
    await keep(notifications, *(news for one in first for news in (one, rejected(one))))
    sent: list[tuple[UUID, int]] = []

    async def send() -> None:
        while attempts := await notifications.claim(7, A_WHILE):
            sent.extend((attempt.order_id, attempt.kind.value == "ORDER_REJECTED") for attempt in attempts)
            await notifications.settle([Verdict(attempt, State.SENT) for attempt in attempts])

    # A sender ends when others hold all that is left: the second round takes what became due meanwhile.
    for _ in range(2):
        await asyncio.gather(*(send() for _ in range(6)))

    assert sorted(sent) == sorted((one.order_id, newer) for one in first for newer in (False, True))
    for one in first:
        assert sent.index((one.order_id, False)) < sent.index((one.order_id, True))


async def test_one_order_has_one_notification_of_a_kind_whatever_its_id(database: Database) -> None:
    """The inbox: what an event that comes again would change is refused by the key, not by a look beforehand."""
    await keep(SqlNotifications(database), placed())
    columns = "order_id, kind, version, customer, recipient, subject, body, event_type, event_id"

    with pytest.raises(asyncpg.UniqueViolationError, match="inbox"):
        await database.execute(
            f"insert into notifications (id, {columns}) select gen_random_uuid(), {columns} from notifications"
        )


async def test_two_of_one_order_are_never_under_way(database: Database) -> None:
    """Two senders with different snapshots could take one each: a key stops the second."""
    notifications, first = SqlNotifications(database), placed()
    await keep(notifications, first, rejected(first))
    await claimed(notifications)

    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute("update notifications set state = 'SENDING'")


async def test_of_two_senders_that_take_one_order_at_the_same_moment_the_second_gets_nothing(
    database: Database,
) -> None:
    """Neither sees what the other does: the older one's pause ended between their snapshots."""
    notifications, first = SqlNotifications(database), placed()
    await keep(notifications, first, rejected(first))
    await database.execute("update notifications set claimable_time = now() + interval '1 h' where version = 1")

    async with database.transaction() as other:
        await other.execute("update notifications set state = 'SENDING' where version = 1")
        taking = asyncio.create_task(claimed(notifications))

        async def waits() -> bool:
            activity = "pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            return bool(await database.fetchval(f"select count(*) from {activity}"))

        await eventually(waits, "the second sender waits for the first")

    assert not await taking
