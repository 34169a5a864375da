"""The sender at work: real tables, a real SMTP server, the worker of the chassis."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from shop.notification.v1.config_pb2 import NotificationConfig

from services.chassis.database import Database, Record
from services.chassis.worker import Worker
from services.notification.domain import Accepted, Outcome
from services.notification.mail import AT_ONCE, Claimed, Sender, SmtpAddress, SmtpServer
from services.notification.store import SqlNotifications
from tests.support.notification import NO_TIME, claimed, keep, placed, rejected
from tests.support.ports import free_port
from tests.support.smtp import MailServer, hang_up, mail_server, welcome
from tests.support.waiting import eventually


@asynccontextmanager
async def sending(database: Database, url: str, config: NotificationConfig) -> AsyncIterator[None]:
    smtp = SmtpServer(SmtpAddress.parse(url), lambda: config.mail_from)
    sender = Sender(SqlNotifications(database), smtp, lambda: config)
    worker = asyncio.create_task(Worker[Claimed, Outcome](sender, batch=AT_ONCE, poll_s=0.05).run())
    try:
        yield
    finally:
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker


async def until_settled(database: Database) -> dict[UUID, Record]:
    """The rows of the audit view by notification, once nothing is to be sent any more."""

    async def rows() -> list[Record]:
        found = await database.fetch("select * from audit_notifications")
        assert {row["state"] for row in found}.isdisjoint({"READY", "SENDING"})
        return found

    return {row["notification_id"]: row for row in await eventually(rows, "every notification is settled")}


async def test_every_mail_is_delivered_once_several_at_a_time(
    database: Database, server: MailServer, config: NotificationConfig
) -> None:
    arrived = asyncio.Barrier(4)

    async def wait_for_others(recipient: str) -> str:
        await arrived.wait()
        return await welcome(recipient)

    server.to_text = wait_for_others
    orders = [placed() for _ in range(40)]
    await keep(SqlNotifications(database), *orders)

    async with sending(database, server.url, config):
        rows = await until_settled(database)

    assert {row["state"] for row in rows.values()} == {"SENT"}
    assert {row["possible_duplicates"] for row in rows.values()} == {0}
    assert Counter(mail["Message-ID"] for mail in server.mails) == Counter(
        f"<placed.{news.order_id}@shopmesh.dev>" for news in orders
    )
    assert 4 <= server.at_once <= AT_ONCE


async def test_one_refused_address_hinders_no_other(
    database: Database, server: MailServer, config: NotificationConfig
) -> None:
    async def only_ann(recipient: str) -> str:
        return "250 OK" if recipient.startswith("ann") else "550 no such user"

    server.to_recipient = only_ann
    strangers = [placed(recipient="eve@example.com") for _ in range(3)]
    known = [placed() for _ in range(3)]
    await keep(SqlNotifications(database), *strangers, *known)

    async with sending(database, server.url, config):
        rows = await until_settled(database)

    assert [rows[news.notification_id]["state"] for news in known] == ["SENT"] * 3
    assert [rows[news.notification_id]["state"] for news in strangers] == ["FAILED"] * 3
    assert [rows[news.notification_id]["attempts"] for news in strangers] == [1] * 3
    dead = await database.fetch("select notification_id, reason from dead_letters")
    assert {row["notification_id"] for row in dead} == {news.notification_id for news in strangers}
    assert {row["reason"] for row in dead} == {"550 no such user"}


async def test_a_mail_server_that_comes_back_gets_what_waited(database: Database, config: NotificationConfig) -> None:
    port, news = free_port(), placed()
    await keep(SqlNotifications(database), news)

    async with sending(database, f"smtp://127.0.0.1:{port}", config):

        async def tried_twice() -> bool:
            return bool(await database.fetchval("select attempts >= 2 from notifications"))

        await eventually(tried_twice, "two attempts fail")
        async with mail_server(port=port) as server:
            rows = await until_settled(database)

    row = rows[news.notification_id]
    assert (row["state"], row["possible_duplicates"]) == ("SENT", 0)
    assert row["attempts"] > 2
    assert len(server.mails) == 1


async def test_it_gives_up_in_the_end(database: Database, server: MailServer, config: NotificationConfig) -> None:
    async def not_now(recipient: str) -> str:
        del recipient
        return "451 try later"

    server.to_recipient = not_now
    config.mail_give_up.FromMilliseconds(100)
    await keep(SqlNotifications(database), placed())

    async with sending(database, server.url, config):
        [row] = (await until_settled(database)).values()

    assert (row["state"], row["last_error"]) == ("FAILED", "given up: 451 try later")
    assert row["attempts"] > 1


async def test_copies_are_at_most_the_possible_duplicates_that_were_counted(
    database: Database, server: MailServer, config: NotificationConfig
) -> None:
    answers = iter([hang_up, hang_up])

    async def twice_lost(recipient: str) -> str:
        return await next(answers, welcome)(recipient)

    server.to_text = twice_lost
    await keep(SqlNotifications(database), placed())

    async with sending(database, server.url, config):
        [row] = (await until_settled(database)).values()

    assert (row["state"], row["attempts"], row["possible_duplicates"]) == ("SENT", 3, 2)
    assert len({mail["Message-ID"] for mail in server.mails}) == 1
    assert len(server.mails) == 3


async def test_an_order_that_is_placed_and_rejected_is_told_so_in_this_order(
    database: Database, server: MailServer, config: NotificationConfig
) -> None:
    orders = [placed() for _ in range(10)]
    await keep(SqlNotifications(database), *map(rejected, orders), *orders)

    async with sending(database, server.url, config):
        await until_settled(database)

    told = [mail["Message-ID"] for mail in server.mails]
    for news in orders:
        assert [id.partition(".")[0] for id in told if str(news.order_id) in id] == ["<placed", "<rejected"]


async def test_what_was_accepted_and_not_written_down_is_sent_again_under_its_message_id_and_counted(
    database: Database, server: MailServer, config: NotificationConfig
) -> None:
    """The one window that cannot be closed: the sender died between the mail server's answer and the table."""
    notifications, news = SqlNotifications(database), placed()
    await keep(notifications, news)
    [attempt] = await claimed(notifications, lease=NO_TIME)
    smtp = SmtpServer(SmtpAddress.parse(server.url), lambda: config.mail_from)
    assert await smtp.send(attempt, asyncio.get_running_loop().time() + 60) == Accepted()
    await smtp.hang_up()

    async with sending(database, server.url, config):
        [row] = (await until_settled(database)).values()

    assert (row["state"], row["attempts"], row["possible_duplicates"]) == ("SENT", 2, 1)
    assert [mail["Message-ID"] for mail in server.mails] == [f"<placed.{news.order_id}@shopmesh.dev>"] * 2


async def test_no_transaction_is_open_while_a_mail_server_thinks(
    database: Database, server: MailServer, config: NotificationConfig
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def think(recipient: str) -> str:
        asked.set()
        await answer.wait()
        return await welcome(recipient)

    server.to_text = think
    await keep(SqlNotifications(database), placed())

    async with sending(database, server.url, config):
        await asked.wait()
        others = "datname = current_database() and pid <> pg_backend_pid()"
        begun = await database.fetch(f"select query from pg_stat_activity where {others} and xact_start is not null")
        answer.set()
        await until_settled(database)

    assert not begun
