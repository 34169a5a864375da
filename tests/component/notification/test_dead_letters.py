"""What an operator does about dead letters: over gRPC, on PostgreSQL, on several replicas, beside a sender at work."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import grpc
import pytest
from shop.notification.v1 import notification_pb2 as pb
from shop.notification.v1.config_pb2 import NotificationConfig
from shop.notification.v1.notification_pb2_grpc import (
    NotificationServiceStub,
    add_NotificationServiceServicer_to_server,
)
from structlog.testing import capture_logs

from services.chassis.database import Database
from services.chassis.messages import encode_page_token
from services.notification.api import NotificationApi
from services.notification.domain import DeadLetterNotFound, Garbled, News, State, Verdict
from services.notification.events import understand
from services.notification.letters import letter
from services.notification.store import SqlNotifications
from services.notification.use_cases import Mending, Showing
from tests.component.notification.test_sender import sending, until_settled
from tests.support.issuer import Issuer
from tests.support.notification import claimed, event, keep, order_placed, placed
from tests.support.postgres import Postgres
from tests.support.refused import Refused, outcome
from tests.support.serving import Metadata, bearing, serving
from tests.support.smtp import MailServer, welcome
from tests.support.waiting import eventually

PLACED = "shop.order.v1.OrderPlaced"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def mending(database: Database) -> Mending:
    return Mending(SqlNotifications(database), understand, letter, mended=lambda: None)


@pytest.fixture
async def stub(
    database: Database, issuer: Issuer, config: NotificationConfig
) -> AsyncIterator[NotificationServiceStub]:
    api = NotificationApi(Showing(SqlNotifications(database)), mending(database), lambda: config)
    async with serving(add_NotificationServiceServicer_to_server, api, issuer) as channel:
        yield NotificationServiceStub(channel)


@pytest.fixture
def oscar(issuer: Issuer) -> Metadata:
    return bearing(issuer.token("oscar", ["operator"]))


async def given_up(database: Database, news: News | None = None) -> UUID:
    """A mail that was refused."""
    notifications, news = SqlNotifications(database), news or placed()
    await keep(notifications, news)
    await notifications.settle(
        [Verdict(attempt, State.FAILED, error="550 no such user") for attempt in await claimed(notifications)]
    )
    return news.notification_id


async def buried(database: Database, payload: bytes, **headers: str) -> UUID:
    """An event that the version of its day did not understand."""
    garbled = Garbled(event(payload=payload, **headers), "no protobuf")
    await SqlNotifications(database).bury([garbled])
    return garbled.dead_letter_id


# --- over gRPC


async def test_operators_see_what_waits_and_why(
    stub: NotificationServiceStub, database: Database, oscar: Metadata
) -> None:
    news = placed()
    mail, unread = await given_up(database, news), await buried(database, b"\xff")

    of_event, of_mail = (await stub.ListDeadLetters(pb.ListDeadLettersRequest(), metadata=oscar)).dead_letters

    assert (of_mail.name, of_mail.order) == (f"deadLetters/{mail}", f"orders/{news.order_id}")
    assert (of_mail.event_type, of_mail.event_id) == (news.event.type, news.event.id)
    assert (of_mail.reason, of_mail.attempts) == ("550 no such user", 1)
    assert (of_event.name, of_event.order, of_event.reason) == (f"deadLetters/{unread}", "", "no protobuf")
    assert of_mail.create_time.ToMicroseconds() < of_event.create_time.ToMicroseconds()


@pytest.mark.parametrize(("asked", "pages"), [(0, [2, 2, 1]), (3, [3, 2]), (100, [3, 2])])
async def test_pages_follow_one_another(
    stub: NotificationServiceStub, database: Database, oscar: Metadata, asked: int, pages: list[int]
) -> None:
    ids = [await buried(database, b"\xff") for _ in range(5)]

    seen, sizes, token = [], [], "first"
    while token:
        request = pb.ListDeadLettersRequest(page_size=asked, page_token=token.removeprefix("first"))
        page = await stub.ListDeadLetters(request, metadata=oscar)
        seen += [one.name for one in page.dead_letters]
        sizes.append(len(page.dead_letters))
        token = page.next_page_token

    assert seen == [f"deadLetters/{id}" for id in reversed(ids)]
    assert sizes == pages


async def test_a_page_token_of_another_list_is_refused(stub: NotificationServiceStub, oscar: Metadata) -> None:
    token = encode_page_token("notifications of oscar", ("2026-11-24T00:00:00+00:00", str(UUID(int=1))))
    call = stub.ListDeadLetters(pb.ListDeadLettersRequest(page_token=token), metadata=oscar)

    assert await outcome(call) == Refused(grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


async def test_an_event_is_read_again_and_told_in_its_trace(
    stub: NotificationServiceStub, database: Database, oscar: Metadata
) -> None:
    said = order_placed()
    name = f"deadLetters/{await buried(database, said.SerializeToString(), traceparent=TRACEPARENT)}"

    answers = [await stub.RedriveDeadLetter(pb.RedriveDeadLetterRequest(name=name), metadata=oscar) for _ in range(3)]

    assert {answer.dead_letter.order for answer in answers} == {said.order.name}
    assert not (await stub.ListDeadLetters(pb.ListDeadLettersRequest(), metadata=oscar)).dead_letters
    [row] = await database.fetch("select * from notifications")
    assert (row["state"], row["recipient"], row["traceparent"]) == ("READY", said.recipient, TRACEPARENT)
    assert row["event_id"] == answers[0].dead_letter.event_id


@pytest.mark.parametrize(
    ("type", "payload", "why"),
    [
        (PLACED, b"", "order: value is required"),
        ("shop.order.v1.OrderOfNextYear", b"", "nothing is known of shop.order.v1.OrderOfNextYear"),
    ],
)
async def test_an_event_that_makes_no_sense_even_now_says_why_and_stays(
    stub: NotificationServiceStub, database: Database, oscar: Metadata, type: str, payload: bytes, why: str
) -> None:
    garbled = Garbled(event(type, payload), "of another version")
    await SqlNotifications(database).bury([garbled])
    name = f"deadLetters/{garbled.dead_letter_id}"

    told = await outcome(stub.RedriveDeadLetter(pb.RedriveDeadLetterRequest(name=name), metadata=oscar))

    assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "EVENT_GARBLED")
    assert told.facts["dead_letter"] == name
    assert why in told.facts["why"]
    [waits] = (await stub.ListDeadLetters(pb.ListDeadLettersRequest(), metadata=oscar)).dead_letters
    assert waits.name == name


async def test_what_is_redriven_or_discarded_stands_in_the_log_with_who_did_it(
    stub: NotificationServiceStub, database: Database, oscar: Metadata
) -> None:
    redriven, discarded = [f"deadLetters/{await given_up(database)}" for _ in range(2)]

    with capture_logs() as lines:
        await stub.RedriveDeadLetter(pb.RedriveDeadLetterRequest(name=redriven), metadata=oscar)
        await stub.DiscardDeadLetter(pb.DiscardDeadLetterRequest(name=discarded), metadata=oscar)

    told = [line for line in lines if line["event"].startswith("dead letter")]
    assert [(line["event"], line["dead_letter"], line["by"]) for line in told] == [
        ("dead letter redriven", redriven, "oscar"),
        ("dead letter discarded", discarded, "oscar"),
    ]
    for line in told:
        assert (line["event_type"], line["reason"], line["attempts"]) == (PLACED, "550 no such user", 1)


async def test_only_operators_touch_dead_letters(
    stub: NotificationServiceStub, database: Database, issuer: Issuer
) -> None:
    name = f"deadLetters/{await given_up(database)}"
    ann = bearing(issuer.token("ann", ["customer"]))

    for call in (
        stub.ListDeadLetters(pb.ListDeadLettersRequest(), metadata=ann),
        stub.RedriveDeadLetter(pb.RedriveDeadLetterRequest(name=name), metadata=ann),
        stub.DiscardDeadLetter(pb.DiscardDeadLetterRequest(name=name), metadata=ann),
    ):
        assert (await outcome(call)).reason == "ROLE_MISSING"


# --- several at once


@asynccontextmanager
async def another_replica(postgres: Postgres, database: Database) -> AsyncIterator[Database]:
    other = await Database.connect(postgres.url(await database.fetchval("select current_database()"), "notification"))
    try:
        yield other
    finally:
        await other.close()


@asynccontextmanager
async def all_at_once(database: Database, id: UUID, number: int) -> AsyncIterator[None]:
    """Holds the dead letter until so many wait for it."""
    async with database.transaction() as transaction:
        await transaction.execute("select from dead_letters where id = $1 for update", id)
        yield

        async def queue() -> bool:
            # On another connection: within a transaction the answer stays the same.
            waiting = (
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = $1"
            )
            return bool(await database.fetchval(waiting, "Lock") == number)

        await eventually(queue, f"{number} wait for the dead letter")


async def test_redriven_on_two_replicas_at_once_a_mail_is_ready_once_and_an_event_kept_once(
    database: Database, postgres: Postgres
) -> None:
    mail, unread = await given_up(database), await buried(database, order_placed().SerializeToString())
    async with another_replica(postgres, database) as other:
        for dead in (mail, unread):
            async with all_at_once(database, dead, 6):
                redriving = [asyncio.create_task(mending(at).redrive(dead)) for at in (database, other) * 3]
            assert {answer.id for answer in await asyncio.gather(*redriving)} == {dead}

    rows = await database.fetch("select id = $1 as mail, state, attempts from notifications order by 1", mail)
    assert [tuple(row) for row in rows] == [(False, "READY", 0), (True, "READY", 1)]


async def test_of_a_redrive_and_a_discard_at_once_one_wins_and_the_other_hears_so(database: Database) -> None:
    dead = await given_up(database)
    async with all_at_once(database, dead, 2):
        both = [asyncio.create_task(end(dead)) for end in (mending(database).redrive, mending(database).discard)]
    answers = await asyncio.gather(*both, return_exceptions=True)

    [refused] = [answer for answer in answers if isinstance(answer, BaseException)]
    assert isinstance(refused, DeadLetterNotFound)
    state = await database.fetchval("select state from notifications where id = $1", dead)
    assert state == ("FAILED" if answers[0] is refused else "READY")


async def test_an_event_that_comes_again_while_it_is_redriven_is_told_once(database: Database) -> None:
    notifications, said = SqlNotifications(database), order_placed()
    news = understand(event(payload=said.SerializeToString()))
    assert isinstance(news, News)
    garbled = Garbled(news.event, "of an older version")
    await notifications.bury([garbled])

    async with all_at_once(database, garbled.dead_letter_id, 3):
        both = [asyncio.create_task(mending(database).redrive(garbled.dead_letter_id)) for _ in range(3)]
        await keep(notifications, news)
        await notifications.bury([garbled])
    await asyncio.gather(*both)

    assert await database.fetchval("select count(*) from notifications") == 1
    assert not await notifications.open_page(1, None)


async def test_redriven_while_the_sender_is_at_it_a_mail_arrives_once(
    database: Database, server: MailServer, config: NotificationConfig
) -> None:
    async def unknown(recipient: str) -> str:
        return f"550 {recipient} is nobody"

    server.to_recipient = unknown
    orders = [placed() for _ in range(6)]
    await keep(SqlNotifications(database), *orders)

    async with sending(database, server.url, config):
        await until_settled(database)
        server.to_recipient = welcome
        for _ in range(5):
            await asyncio.gather(*(mending(database).redrive(news.notification_id) for news in orders))
        rows = await until_settled(database)

    assert {(row["state"], row["attempts"], row["possible_duplicates"]) for row in rows.values()} == {("SENT", 2, 0)}
    assert sorted(mail["Message-ID"] for mail in server.mails) == sorted(
        f"<placed.{news.order_id}@shopmesh.dev>" for news in orders
    )
    assert not await SqlNotifications(database).open_page(1, None)
