"""The whole process: from an event in the stream to a mail, in one trace, and to its owner's list."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import UUID, uuid4

import grpc
import pytest
from shop.notification.v1.notification_pb2 import ListNotificationsRequest, Notification
from shop.notification.v1.notification_pb2_grpc import NotificationServiceStub

from services.chassis.bus import Bus
from services.notification.events import STREAM, SUBJECTS
from tests.support.etcd import EtcdServer
from tests.support.issuer import Issuer
from tests.support.nats import NatsServer
from tests.support.notification import order_placed
from tests.support.otlp import Receiver, Span, receiving
from tests.support.postgres import Postgres
from tests.support.serving import ServiceProcess, bearing, running_service
from tests.support.smtp import MailServer
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

    async def spans() -> tuple[Span, Span]:
        found = {span.name: span for span in collector.trace(trace_id)}
        assert found.keys() >= {"process shop.order.v1.OrderPlaced", "smtp send"}
        return found["process shop.order.v1.OrderPlaced"], found["smtp send"]

    received, told = await eventually(spans, "consumer and sender tell of it")
    assert received.parent_id == relay
    assert told.parent_id == received.span_id


async def say(stream_server: NatsServer, order_id: UUID, traceparent: str) -> None:
    """As Order's relay does."""
    bus = await Bus.connect(stream_server.url, "order")

    async def connected() -> bool:
        return bus.connected

    try:
        await eventually(connected, "NATS is reached")
        await bus.ensure_stream(STREAM, SUBJECTS)
        subject = "shop.order.v1.OrderPlaced"
        headers = {"ce-id": str(uuid4()), "ce-type": subject, "traceparent": traceparent}
        await bus.publish(subject, order_placed(order_id).SerializeToString(), headers)
    finally:
        await bus.close()
