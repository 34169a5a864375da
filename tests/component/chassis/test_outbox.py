"""The relay between a table of events, in memory here, and a real stream that is killed and wiped."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4, uuid5

import pytest

from services.chassis import reporting
from services.chassis.bus.connection import STREAM_BYTES, Bus
from services.chassis.bus.pulling import Message
from services.chassis.outbox import Event, Relay
from services.chassis.settings import Settings
from services.chassis.tracing import tracing
from services.chassis.worker import Failed, Worker
from tests.support.nats import NatsServer, running_nats
from tests.support.otlp import Span, receiving
from tests.support.scraped import Scraped
from tests.support.waiting import eventually

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def nats() -> Iterator[NatsServer]:
    """A server of one's own, to be killed."""
    with running_nats() as server:
        yield server


class Table:
    """The port in memory: events of a name are sent in the order in which they were written."""

    def __init__(self, type_: str) -> None:
        self.type = type_
        self.unsent: list[tuple[str, Event]] = []
        self.claimed: set[UUID] = set()
        self.batches: list[int] = []
        self.sent: list[tuple[str, Event]] = []
        self.errors: list[str] = []
        self.created: datetime | None = None
        self.forgets_to_settle = 0

    def write(self, name: str, text: str) -> None:
        id, told = uuid5(UUID(int=0), f"{name} {text}"), f"{name} {text}".encode()
        event = Event(id, self.type, NOON, told, TRACE, about=f"orders/{name}")
        self.unsent.append((name, event))

    async def claim_events(self, most: int, lease_s: float) -> Sequence[Event]:
        assert lease_s > 0
        first: dict[str, Event] = {}
        for name, event in self.unsent:
            first.setdefault(name, event)
        free = [event for event in first.values() if event.id not in self.claimed][:most]
        self.claimed |= {event.id for event in free}
        self.batches.append(len(free))
        return free

    async def settle_events(self, outcomes: Sequence[tuple[Event, Failed | None]]) -> None:
        self.claimed -= {event.id for event, _ in outcomes}
        if self.forgets_to_settle:
            self.forgets_to_settle -= 1
            raise ConnectionError("the database went away")
        for event, outcome in outcomes:
            if outcome is not None:
                self.errors.append(outcome.error)
                continue
            row = next(row for row in self.unsent if row[1].id == event.id)
            self.unsent.remove(row)
            self.sent.append(row)

    async def stream_created(self, time: datetime) -> int:
        known, self.created = self.created, time
        if known == time:
            return 0
        lost, self.sent = self.sent, []
        self.unsent = [(name, replace(event, resends=event.resends + 1)) for name, event in lost] + self.unsent
        return len(lost)


class Shelf:
    """A stream of its own with a relay that fills it and a reader that empties it."""

    def __init__(self, max_bytes: int = STREAM_BYTES) -> None:
        self.stream, self.max_bytes = f"S{uuid4().hex}", max_bytes
        self.table = Table(f"{self.stream}.written")
        self.read: list[Message] = []

    async def handle(self, messages: Sequence[Message]) -> None:
        self.read += messages

    @property
    def texts(self) -> list[str]:
        return [message.data.decode() for message in self.read]

    @asynccontextmanager
    async def open(self, nats: NatsServer) -> AsyncIterator[Worker[Event, None]]:
        async with self.relaying(nats) as worker, self.reading(nats):
            yield worker

    @asynccontextmanager
    async def relaying(self, nats: NatsServer) -> AsyncIterator[Worker[Event, None]]:
        bus = await Bus.connect(nats.url, "test")
        worker = Worker(self.relay(bus), poll_s=0.05, gather_s=0)
        async with at_work(worker.run(), bus):
            yield worker

    @asynccontextmanager
    async def reading(self, nats: NatsServer) -> AsyncIterator[None]:
        bus = await Bus.connect(nats.url, "test")
        async with at_work(bus.consume(self.stream, "reader", [self.table.type], self.handle), bus):
            yield

    def relay(self, bus: Bus) -> Relay[Event]:
        return Relay(
            self.table,
            bus,
            stream=self.stream,
            subjects=[self.table.type],
            source="/test/fruit",
            max_bytes=self.max_bytes,
        )

    async def has(self, *texts: str) -> None:
        async def look() -> bool:
            assert set(self.texts) == set(texts)
            assert not self.table.unsent
            return True

        await eventually(look, f"{len(texts)} events were read and marked as sent")


@asynccontextmanager
async def at_work(work: Coroutine[None, None, None], bus: Bus) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.close()


async def test_an_event_travels_with_the_headers_of_cloud_events_and_its_trace(nats: NatsServer) -> None:
    shelf = Shelf()
    async with shelf.open(nats) as worker:
        shelf.table.write("apple", "ripe")
        worker.wake()
        await shelf.has("apple ripe")
    (message,) = shelf.read
    id = str(uuid5(UUID(int=0), "apple ripe"))
    assert message.subject == shelf.table.type
    told = {name: value for name, value in message.headers.items() if name != "traceparent"}
    assert told == {
        "Nats-Msg-Id": id,
        "ce-specversion": "1.0",
        "ce-id": id,
        "ce-type": shelf.table.type,
        "ce-source": "/test/fruit",
        "ce-subject": "orders/apple",
        "ce-time": "2026-01-01T12:00:00Z",
        "content-type": "application/protobuf",
    }
    assert message.headers["traceparent"].split("-")[1] == TRACE.split("-")[1]
    assert message.traceparent is not None
    assert message.traceparent.split("-")[1] == TRACE.split("-")[1]


async def test_events_of_one_thing_arrive_in_their_order(nats: NatsServer) -> None:
    shelf = Shelf()
    written = [(name, f"{n:02}") for n in range(20) for name in ("apple", "pear", "plum")]
    async with shelf.open(nats) as worker:
        for name, text in written:
            shelf.table.write(name, text)
        worker.wake()
        await shelf.has(*(f"{name} {text}" for name, text in written))
    for name in ("apple", "pear", "plum"):
        texts = [text for text in shelf.texts if text.startswith(name)]
        assert texts == sorted(texts)


async def test_an_event_whose_sending_was_forgotten_is_in_the_stream_once(nats: NatsServer) -> None:
    shelf = Shelf()
    shelf.table.forgets_to_settle = 2
    async with shelf.open(nats) as worker:
        shelf.table.write("apple", "ripe")
        worker.wake()
        await shelf.has("apple ripe")
        shelf.table.write("apple", "eaten")
        await shelf.has("apple ripe", "apple eaten")
    assert shelf.texts == ["apple ripe", "apple eaten"]


async def test_nothing_is_claimed_while_nats_is_away(nats: NatsServer) -> None:
    shelf = Shelf()
    shelf.table.write("apple", "ripe")
    nats.stop()
    bus = await Bus.connect(nats.url, "test")
    assert await shelf.relay(bus).claim(64) == []
    assert not shelf.table.claimed
    await bus.close()
    async with shelf.open(nats):
        nats.start()
        await shelf.has("apple ripe")


async def test_events_written_while_nats_dies_again_and_again_all_arrive(nats: NatsServer) -> None:
    shelf = Shelf()
    written: list[str] = []

    async def more_is_read() -> bool:
        return len(shelf.read) > before

    async with shelf.open(nats) as worker:
        for death in range(3):
            for n in range(200):
                shelf.table.write(f"apple-{death}-{n}", "ripe")
                written.append(f"apple-{death}-{n} ripe")
            before = len(shelf.read)
            worker.wake()
            await eventually(more_is_read, "some have arrived, others have not")
            nats.kill()
            nats.start()
        await shelf.has(*written)


async def test_what_a_wiped_nats_has_lost_goes_out_again(nats: NatsServer) -> None:
    shelf = Shelf()
    async with shelf.open(nats) as worker:
        shelf.table.write("apple", "ripe")
        worker.wake()
        await shelf.has("apple ripe")
        nats.wipe()
        shelf.table.write("apple", "eaten")
        await shelf.has("apple ripe", "apple eaten")
    assert shelf.texts == ["apple ripe", "apple ripe", "apple eaten"]
    ids = [message.headers["Nats-Msg-Id"] for message in shelf.read]
    assert ids[1] == f"{ids[0]}/1"
    assert len({message.headers["ce-id"] for message in shelf.read}) == 2, "readers know it again"


async def test_a_restarted_relay_does_not_send_again_what_the_stream_still_has(nats: NatsServer) -> None:
    shelf = Shelf()
    async with shelf.open(nats) as worker:
        shelf.table.write("apple", "ripe")
        worker.wake()
        await shelf.has("apple ripe")
    nats.kill()
    nats.start()
    async with shelf.open(nats) as worker:
        shelf.table.write("apple", "eaten")
        worker.wake()
        await shelf.has("apple ripe", "apple eaten")
    assert shelf.texts == ["apple ripe", "apple eaten"]


async def test_an_event_that_the_stream_refuses_is_not_marked_and_one_at_a_time_asks_whether_it_takes_more(
    nats: NatsServer,
) -> None:
    shelf = Shelf(max_bytes=20_000)
    written = [f"apple-{n:03} ripe" for n in range(200)]
    for text in written:
        shelf.table.write(*text.split())

    async def asked() -> bool:
        return shelf.table.batches[-3:] == [1, 1, 1]

    async with shelf.relaying(nats) as worker:
        worker.wake()
        await eventually(asked, "the full stream is asked three times in a row")
        assert {"maximum bytes exceeded" in error for error in shelf.table.errors} == {True}
        assert len(shelf.table.sent) < 100
        counted = Scraped(reporting.page(Settings.read("fruit", {"SHOPMESH_INSTANCE": "fruit-1"})))
        published = counted.of("messaging_client_sent_messages_total", messaging_destination_name=shelf.table.type)
        assert {each.labels.get("error_type", "") for each in published} == {"", "BusUnavailable"}, (
            "as the spans have it"
        )
        async with shelf.reading(nats):
            await shelf.has(*written)
    assert sorted(shelf.texts) == written, "the stream made room of what was read, and nothing came twice"


async def test_one_trace_leads_through_the_stream(nats: NatsServer) -> None:
    shelf = Shelf()
    with receiving() as receiver:
        tracing.export(Settings.read("fruit", {"SHOPMESH_OTLP_ENDPOINT": receiver.endpoint}), "fruit")
        try:
            async with shelf.open(nats) as worker:
                shelf.table.write("apple", "ripe")
                worker.wake()
                await shelf.has("apple ripe")

            async def both() -> list[Span]:
                spans = receiver.trace(TRACE.split("-")[1])
                return spans if len(spans) == 2 else []

            spans = {span.kind: span for span in await eventually(both, "both spans were received")}
        finally:
            await asyncio.to_thread(tracing.close)
    send, process = spans["PRODUCER"], spans["CONSUMER"]
    assert (send.parent_id, process.parent_id) == (TRACE.split("-")[2], send.span_id)
    assert shelf.read[0].traceparent == f"00-{process.trace_id}-{process.span_id}-01", "what follows belongs under it"
    message = {
        "messaging.system": "nats",
        "messaging.destination.name": shelf.table.type,
        "messaging.message.id": str(uuid5(UUID(int=0), "apple ripe")),
        "fruit.order": "orders/apple",
    }
    assert (send.name, process.name) == (f"send {shelf.table.type}", f"process {shelf.table.type}")
    assert send.attributes == message | {"messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert process.attributes == message | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "reader",
    }
