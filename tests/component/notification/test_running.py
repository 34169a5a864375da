"""The whole process: from an event in the stream to a mail, in one trace, and to its owner's list."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import grpc
import pytest
from shop.notification.v1.notification_pb2 import (
    DeadLetter,
    ListDeadLettersRequest,
    ListNotificationsRequest,
    Notification,
    RedriveDeadLetterRequest,
)
from shop.notification.v1.notification_pb2_grpc import NotificationServiceStub

from services.chassis.bus.connection import Bus
from services.notification.events import STREAM, SUBJECTS
from tests.support.etcd import EtcdServer
from tests.support.issuer import Issuer
from tests.support.nats import NatsServer
from tests.support.notification import order_placed
from tests.support.otlp import Receiver, Span, receiving
from tests.support.postgres import Postgres
from tests.support.serving import ServiceProcess, bearing, running_service
from tests.support.smtp import MailServer, welcome
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
async def process(
    postgres: Postgres,
    stream_server: NatsServer,
    etcd: EtcdServer,
    issuer: Issuer,
    server: MailServer,
    collector: Receiver,
) -> AsyncIterator[ServiceProcess]:
    # Within a thread: the mail server answers in this one.
    running = running_service(
        "notification",
        database_url=await postgres.make("services.notification"),
        etcd=etcd,
        issuer=issuer,
        NATS_URL=stream_server.url,
        SMTP_URL=server.url,
        OTLP_ENDPOINT=collector.endpoint,
    )
    process = await asyncio.to_thread(running.__enter__)
    try:
        yield process
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


async def test_one_trace_leads_from_the_event_to_the_mail_and_the_list(
    process: ServiceProcess, stream_server: NatsServer, server: MailServer, collector: Receiver, issuer: Issuer
) -> None:
    order_id, trace_id, relay = uuid4(), uuid4().hex, uuid4().hex[:16]
    await say(stream_server, order_id, traceparent=f"00-{trace_id}-{relay}-01")

    async def mailed() -> bool:
        return bool(server.mails)

    await eventually(mailed, "the mail arrives")
    [mail] = server.mails
    assert mail["Message-ID"] == f"<placed.{order_id}@shopmesh.dev>"

    async with grpc.aio.insecure_channel(process.address) as channel:
        stub = NotificationServiceStub(channel)
        ann = bearing(issuer.token("ann", ["customer"]))

        async def sent() -> bool:
            page = await stub.ListNotifications(ListNotificationsRequest(), metadata=ann)
            return [one.state for one in page.notifications] == [Notification.STATE_SENT]

        await eventually(sent, "the notification is SENT")

    async def spans() -> list[Span]:
        found = collector.trace(trace_id)
        return found if len(found) == 3 else []

    received, kept, told = sorted(await eventually(spans, "consumer and sender tell of it") or [], key=depth(relay))
    assert [(each.name, each.kind, each.status) for each in (received, kept, told)] == [
        ("process shop.order.v1.OrderPlaced", "CONSUMER", "UNSET"),
        ("insert notifications", "CLIENT", "UNSET"),
        ("smtp send", "CLIENT", "UNSET"),
    ]
    assert [each.parent_id for each in (received, kept, told)] == [relay, received.span_id, received.span_id]
    assert {each.attributes["shop.order"] for each in (received, kept, told)} == {f"orders/{order_id}"}
    mails = urlsplit(server.url)
    assert (told.attributes["server.address"], told.attributes["server.port"]) == (mails.hostname, str(mails.port))


async def test_what_becomes_of_a_mail_later_is_in_the_trace_of_its_order(
    process: ServiceProcess, stream_server: NatsServer, server: MailServer, collector: Receiver, issuer: Issuer
) -> None:
    """It waits while the mail server does not take it, its sender is killed, it is given up, and redriven."""
    order_id, trace_id, relay = uuid4(), uuid4().hex, uuid4().hex[:16]

    async def attempts(*wanted: str) -> list[Span]:
        found = [each for each in collector.trace(trace_id) if each.name == "smtp send"]
        assert {each.attributes.get("error.type", "accepted") for each in found} >= {*wanted}
        return found

    async def not_now(_: str) -> str:
        return "451 not now"

    async def never(_: str) -> str:
        return "550 never"

    server.to_recipient = not_now
    await say(stream_server, order_id, traceparent=f"00-{trace_id}-{relay}-01")
    await eventually(lambda: attempts("postponed"), "the mail is tried")
    await asyncio.to_thread(process.kill)
    server.to_recipient = never
    await asyncio.to_thread(process.start)
    await eventually(lambda: attempts("postponed", "refused"), "the mail is given up")
    server.to_recipient = welcome
    async with grpc.aio.insecure_channel(process.address) as channel:
        stub, oscar = NotificationServiceStub(channel), bearing(issuer.token("oscar", ["operator"]))

        async def dead() -> list[DeadLetter]:
            return list((await stub.ListDeadLetters(ListDeadLettersRequest(), metadata=oscar)).dead_letters)

        [letter] = await eventually(dead, "there is a dead letter") or []
        operators = uuid4().hex
        asked = (*oscar, ("traceparent", f"00-{operators}-{relay}-01"))
        await stub.RedriveDeadLetter(RedriveDeadLetterRequest(name=letter.name), metadata=asked)
        sent = await eventually(lambda: attempts("postponed", "refused", "accepted"), "the mail is sent") or []

        async def told() -> list[Span]:
            return [each for each in collector.trace(operators) if each.kind == "SERVER"]

        [redriven] = await eventually(told, "the operator's call is told of") or []

    [received] = [each for each in collector.trace(trace_id) if each.kind == "CONSUMER"]
    assert {each.parent_id for each in sent} == {received.span_id}
    assert {each.status for each in sent if "error.type" in each.attributes} == {"ERROR"}
    assert {each.attributes["shop.order"] for each in (redriven, *sent)} == {f"orders/{order_id}"}


def depth(root: str) -> Callable[[Span], tuple[bool, str]]:
    return lambda span: (span.parent_id != root, span.name)


async def say(stream_server: NatsServer, order_id: UUID, traceparent: str) -> None:
    """As Order's relay does."""
    bus = await Bus.connect(stream_server.url, "order")

    async def connected() -> bool:
        return bus.connected

    try:
        await eventually(connected, "NATS is reached")
        await bus.ensure_stream(STREAM, SUBJECTS)
        subject = "shop.order.v1.OrderPlaced"
        headers = {
            "ce-id": str(uuid4()), "ce-type": subject, "ce-subject": f"orders/{order_id}", "traceparent": traceparent
        }  # fmt: skip
        await bus.publish(subject, order_placed(order_id).SerializeToString(), headers)
    finally:
        await bus.close()
