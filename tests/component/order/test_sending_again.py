"""`shopmesh resend`: from the table of events over a real stream to customers, who get no mail twice."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest
from nats.js.errors import NotFoundError
from shop.notification.v1.config_pb2 import NotificationConfig

from services.chassis.bus.connection import Bus
from services.chassis.database import Database
from services.chassis.worker import Worker
from services.cli.shop.resend import resend
from services.failure import Failure
from services.notification.domain import Outcome
from services.notification.events import CONSUMER, STREAM, SUBJECTS, OrderEvents
from services.notification.letters import letter
from services.notification.mail import Claimed, Sender, SmtpAddress, SmtpServer
from services.notification.store import SqlNotifications
from services.notification.use_cases import Hearing
from services.order.contract import event_id
from services.order.domain import Order, OrderCancelled, OrderPlaced
from services.order.events import relay
from services.order.store import SqlOrders
from tests.support.nats import NatsServer, running_nats
from tests.support.postgres import Postgres
from tests.support.smtp import MailServer, mail_server
from tests.support.waiting import eventually
from tests.unit.order.fakes import ONE_O_CLOCK, order

CONFIG = NotificationConfig(mail_from="shop@example.com")
CONFIG.smtp_timeout.FromSeconds(5)


@pytest.fixture(scope="module")
def nats() -> Iterator[NatsServer]:
    with running_nats() as server:
        yield server


@pytest.fixture
async def heard(postgres: Postgres) -> AsyncIterator[Database]:
    """What Notification keeps."""
    async with postgres.database("services.notification") as database:
        yield database


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    async with mail_server() as server:
        yield server


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    nats.wipe()
    bus = await Bus.connect(nats.url, "test")
    yield bus
    await bus.close()


async def url(database: Database, postgres: Postgres, user: str = "order") -> str:
    return postgres.url(await database.fetchval("select current_database()"), user)


@asynccontextmanager
async def mailing(database: Database, bus: Bus, heard: Database, server: MailServer) -> AsyncIterator[None]:
    """Relay, consumer and sender at work."""
    notifications = SqlNotifications(heard)
    smtp = SmtpServer(SmtpAddress.parse(server.url), lambda: CONFIG.mail_from)
    events = OrderEvents(Hearing(notifications, letter, lambda: None))
    running = [
        asyncio.create_task(Worker(relay(database, bus), poll_s=0.05).run()),
        asyncio.create_task(bus.consume(STREAM, CONSUMER, SUBJECTS, events.handle)),
        asyncio.create_task(Worker[Claimed, Outcome](Sender(notifications, smtp, lambda: CONFIG), poll_s=0.05).run()),
    ]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def mailed(bus: Bus, heard: Database, server: MailServer, *, events: int, mails: int) -> None:
    """Waits until so many messages were read from the stream, and no mail is due."""

    async def look() -> bool:
        with suppress(NotFoundError):
            consumer = await bus._stream.consumer_info(STREAM, CONSUMER)
            if consumer.ack_floor is None or consumer.ack_floor.stream_seq != events:
                return False
        states = await heard.fetch("select state from notifications")
        assert [row["state"] for row in states] == ["SENT"] * mails
        return True

    await eventually(look, f"{events} events are read and {mails} mails are sent")
    assert len(server.mails) == mails


async def place(database: Database, request_id: str) -> Order:
    one = order(request_id=request_id)
    return await SqlOrders(database, committed=lambda: None).add(one, OrderPlaced(one), request_id)


async def test_events_that_are_sent_again_are_read_again_and_nobody_is_mailed_twice(
    postgres: Postgres, database: Database, bus: Bus, heard: Database, server: MailServer
) -> None:
    async with mailing(database, bus, heard, server):
        one, other = await place(database, "r1"), await place(database, "r2")
        await mailed(bus, heard, server, events=2, mails=2)
        cancelled = OrderCancelled(one.cancel(ONE_O_CLOCK))
        await SqlOrders(database, committed=lambda: None).change(cancelled)
        await mailed(bus, heard, server, events=3, mails=3)

        assert await resend(await url(database, postgres), one.id) == 2
        await mailed(bus, heard, server, events=5, mails=3)
        assert await resend(await url(database, postgres), datetime.now(UTC) - timedelta(hours=1)) == 3
        await mailed(bus, heard, server, events=8, mails=3)

    found = [await bus._stream.get_msg(STREAM, seq) for seq in range(1, 9)]
    ids = [message.headers["Nats-Msg-Id"] for message in found if message.headers]
    placed, too, undone = event_id(one), event_id(other), event_id(cancelled.order)
    assert ids[3:5] == [f"{placed}/1", f"{undone}/1"]
    assert set(ids[5:7]) == {f"{placed}/2", f"{too}/1"}
    assert ids[7] == f"{undone}/2"
    assert await database.fetchval("select bool_and(unsent_time < sent_time) from order_events")


async def test_what_was_not_sent_yet_goes_out_anyway_and_is_not_counted(postgres: Postgres, database: Database) -> None:
    one = await place(database, "r1")

    assert await resend(await url(database, postgres), one.id) == 0
    assert await resend(await url(database, postgres), datetime.now(UTC) - timedelta(hours=1)) == 0

    assert await database.fetchval("select resends from order_events") == 0


async def test_an_order_that_nobody_knows_is_named(postgres: Postgres, database: Database) -> None:
    unknown = uuid4()
    with pytest.raises(Failure, match=f"there is no order {unknown}"):
        await resend(await url(database, postgres), unknown)


async def test_auditors_may_not_send_anything_again(postgres: Postgres, database: Database) -> None:
    one = await place(database, "r1")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await resend(await url(database, postgres, "audit"), one.id)
