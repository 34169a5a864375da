"""Publishing and consuming on a real NATS that is killed, wiped and frozen."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import pytest

from services.chassis import logs
from services.chassis.bus.access import BusUnavailable
from services.chassis.bus.connection import Bus
from services.chassis.bus.pulling import Message
from services.chassis.patience import describe
from services.chassis.settings import Settings
from services.chassis.tracing import at, trace_id, tracing
from tests.support.nats import NatsServer, running_nats
from tests.support.otlp import receiving
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def fragile() -> Iterator[NatsServer]:
    """A server of one's own, to be killed."""
    with running_nats() as server:
        yield server


@pytest.fixture
def stream() -> str:
    return f"S{uuid4().hex}"


@asynccontextmanager
async def connected(nats: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect(nats.url, "test")
    try:
        await connects(bus)
        yield bus
    finally:
        await bus.close()


async def connects(bus: Bus) -> None:
    async def look() -> bool:
        return bus.connected

    await eventually(look, "the bus is connected")


class Letters:
    """What a consumer was handed."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.batches: list[int] = []
        self.failing = 0
        self.away = False

    async def handle(self, messages: Sequence[Message]) -> None:
        self.batches.append(len(messages))
        if self.away or self.failing:
            self.failing -= 1
            raise BusUnavailable
        self.read += [message.data.decode() for message in messages]

    async def are(self, *expected: str) -> None:
        async def look() -> bool:
            assert sorted(self.read) == sorted(expected)
            return True

        await eventually(look, f"{expected} were read")


@asynccontextmanager
async def consuming(bus: Bus, stream: str, letters: Letters, durable: str = "reader") -> AsyncIterator[None]:
    task = asyncio.create_task(bus.consume(stream, durable, [f"{stream}.letter"], letters.handle))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()


async def publish(bus: Bus, stream: str, text: str) -> None:
    """As soon as the stream takes it; the id of the message is its text."""

    async def published() -> bool:
        with suppress(BusUnavailable):
            await bus.ensure_stream(stream, [f"{stream}.>"])
            await bus.publish(f"{stream}.letter", text.encode(), {"Nats-Msg-Id": text})
            return True
        return False

    await eventually(published, "the stream takes messages")


async def test_what_is_published_is_read_once(nats: NatsServer, stream: str) -> None:
    async with connected(nats) as bus:
        letters = Letters()
        async with consuming(bus, stream, letters):
            for n in range(200):
                await publish(bus, stream, str(n))
            await publish(bus, stream, "7")
            await letters.are(*map(str, range(200)))


async def test_what_lies_there_comes_in_batches(nats: NatsServer, stream: str) -> None:
    async with connected(nats) as bus:
        for n in range(150):
            await publish(bus, stream, str(n))
        letters = Letters()
        async with consuming(bus, stream, letters):
            await letters.are(*map(str, range(150)))
        assert len(letters.batches) < 50
        assert max(letters.batches) <= 64


async def test_what_was_not_handled_comes_again(nats: NatsServer, stream: str) -> None:
    async with connected(nats) as bus:
        letters = Letters()
        letters.failing = 3
        async with consuming(bus, stream, letters):
            await publish(bus, stream, "a")
            await letters.are("a")
            await publish(bus, stream, "b")
            await letters.are("a", "b")


async def test_a_reader_goes_on_where_it_stopped(nats: NatsServer, stream: str) -> None:
    async with connected(nats) as bus:
        letters = Letters()
        async with consuming(bus, stream, letters):
            await publish(bus, stream, "a")
            await letters.are("a")
        await publish(bus, stream, "b")
        async with consuming(bus, stream, letters):
            await letters.are("a", "b")


async def test_replicas_share_the_messages(nats: NatsServer, stream: str) -> None:
    async with connected(nats) as bus, connected(nats) as other:
        letters = Letters()
        async with consuming(bus, stream, letters), consuming(other, stream, letters):
            for n in range(100):
                await publish(bus, stream, str(n))
            await letters.are(*map(str, range(100)))


async def test_a_message_keeps_its_headers(nats: NatsServer, stream: str) -> None:
    got: list[Message] = []

    async def handle(messages: Sequence[Message]) -> None:
        got.extend(messages)

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with connected(nats) as bus:
        await bus.ensure_stream(stream, [f"{stream}.>"])
        await bus.publish(f"{stream}.letter", b"\x00\xff", {"ce-id": "1", "traceparent": trace})
        task = asyncio.create_task(bus.consume(stream, "reader", [f"{stream}.*"], handle))
        await eventually(lambda: _true(got), "it arrives")
        task.cancel()
        await asyncio.wait([task])
    assert (got[0].subject, got[0].data, got[0].headers["ce-id"]) == (f"{stream}.letter", b"\x00\xff", "1")
    assert got[0].traceparent is not None
    assert got[0].traceparent.split("-")[1] == trace.split("-")[1]


async def test_messages_that_come_together_have_a_span_each_in_their_own_trace(nats: NatsServer, stream: str) -> None:
    traces = ["1" * 32, "2" * 32]
    got: list[tuple[str, str | None]] = []

    async def handle(messages: Sequence[Message]) -> None:
        got.extend((trace_id(), logs.order()) for _ in messages)
        for message in messages:
            with at(message.traceparent):
                got.append((trace_id(), message.about))

    with receiving() as receiver:
        tracing.export(Settings.read("reader", {"SHOPMESH_OTLP_ENDPOINT": receiver.endpoint}), "fruit")
        try:
            async with connected(nats) as bus:
                await bus.ensure_stream(stream, [f"{stream}.>"])
                for trace in traces:
                    headers = {"traceparent": f"00-{trace}-{'b' * 16}-01", "ce-subject": f"orders/{trace[0]}"}
                    await bus.publish(f"{stream}.letter", b"", headers)
                task = asyncio.create_task(bus.consume(stream, "reader", [f"{stream}.*"], handle))
                await eventually(lambda: _true(got), "they arrive")
                task.cancel()
                await asyncio.wait([task])
        finally:
            await asyncio.to_thread(tracing.close)
        first, second = [span for trace in traces for span in receiver.trace(trace)]

    assert got == [(traces[0], None), (traces[0], None), (traces[0], "orders/1"), (traces[1], "orders/2")]
    assert [span.attributes["fruit.order"] for span in (first, second)] == ["orders/1", "orders/2"]
    assert (first.links, second.links) == ((), ((first.trace_id, first.span_id),))


async def test_the_pause_before_a_message_comes_again_is_in_none_of_its_spans(nats: NatsServer, stream: str) -> None:
    trace, letters = "3" * 32, Letters()
    letters.failing = 6
    with receiving() as receiver:
        tracing.export(Settings.read("reader", {"SHOPMESH_OTLP_ENDPOINT": receiver.endpoint}), "fruit")
        try:
            async with connected(nats) as bus, consuming(bus, stream, letters):
                await bus.ensure_stream(stream, [f"{stream}.>"])
                await bus.publish(f"{stream}.letter", b"a", {"traceparent": f"00-{trace}-{'b' * 16}-01"})
                await letters.are("a")
        finally:
            await asyncio.to_thread(tracing.close)
        tries = sorted(receiver.trace(trace), key=lambda each: each.start_s)

    assert [each.attributes.get("error.type") for each in tries] == ["BusUnavailable"] * 6 + [None]
    assert tries[5].start_s - tries[4].end_s > 0.3, "the fifth pause is 0.4 s at least"


async def test_a_stream_is_known_again_by_its_creation_time(nats: NatsServer, stream: str) -> None:
    async with connected(nats) as bus:
        first = await bus.ensure_stream(stream, [f"{stream}.a"])
        assert await bus.ensure_stream(stream, [f"{stream}.a"]) == first
        assert await bus.ensure_stream(stream, [f"{stream}.a", f"{stream}.b"]) == first, "mended, not made anew"
        await bus.publish(f"{stream}.b", b"", {})
        await bus._stream.delete_stream(stream)
        assert await bus.ensure_stream(stream, [f"{stream}.a"]) > first


async def test_a_publish_that_no_stream_takes_is_no_success(nats: NatsServer, stream: str) -> None:
    async with connected(nats) as bus:
        with pytest.raises(BusUnavailable):
            await bus.publish(f"{stream}.letter", b"", {})


async def test_a_full_stream_refuses_what_is_new_and_says_so(nats: NatsServer, stream: str) -> None:
    async with connected(nats) as bus:
        await publish(bus, stream, "a")
        full = await bus._stream.stream_info(stream)
        await bus._stream.update_stream(full.config.evolve(max_bytes=full.state.bytes + 10))
        with pytest.raises(BusUnavailable) as refusal:
            await bus.publish(f"{stream}.letter", b"b", {})
        assert "maximum bytes exceeded" in describe(refusal.value)
        letters = Letters()
        async with consuming(bus, stream, letters):
            await letters.are("a")


async def test_a_nearly_full_stream_is_purged_of_what_all_its_readers_have_acknowledged(
    nats: NatsServer, stream: str
) -> None:
    async with connected(nats) as bus:
        letters, late = Letters(), Letters()
        for n in range(100):
            await publish(bus, stream, f"{n:03}")
        size = (await bus._stream.stream_info(stream)).state.bytes
        async with consuming(bus, stream, letters), consuming(bus, stream, late, "late"):
            await letters.are(*(f"{n:03}" for n in range(100)))
            await late.are(*(f"{n:03}" for n in range(100)))
        for n in range(100, 150):
            await publish(bus, stream, f"{n:03}")
        async with consuming(bus, stream, letters):
            await letters.are(*(f"{n:03}" for n in range(150)))

        async def kept(max_bytes: int) -> tuple[int, int]:
            await bus.ensure_stream(stream, [f"{stream}.>"], max_bytes)
            state = (await bus._stream.stream_info(stream)).state
            return state.first_seq, state.messages

        assert await kept(2 * size) == (1, 150), "it is filled to 75 %"
        assert await kept(int(1.8 * size)) == (101, 50), "the late one has not read these"
        assert await kept(int(0.6 * size)) == (101, 50)


async def test_a_stream_that_nobody_reads_keeps_all(nats: NatsServer, stream: str) -> None:
    async with connected(nats) as bus:
        await publish(bus, stream, "a")
        size = (await bus._stream.stream_info(stream)).state.bytes
        await bus.ensure_stream(stream, [f"{stream}.>"], size)
        assert (await bus._stream.stream_info(stream)).state.messages == 1


@pytest.mark.parametrize("loss", ["consumer", "stream"])
async def test_a_lost_consumer_or_stream_is_made_again(nats: NatsServer, stream: str, loss: str) -> None:
    async with connected(nats) as bus:
        letters = Letters()
        async with consuming(bus, stream, letters):
            await publish(bus, stream, "a")
            await letters.are("a")
            if loss == "consumer":
                await bus._stream.delete_consumer(stream, "reader")
                await publish(bus, stream, "b")
                await letters.are("a", "a", "b")  # a new consumer reads all: inboxes keep effects single
            else:
                await bus._stream.delete_stream(stream)
                await publish(bus, stream, "b")
                await letters.are("a", "b")


@pytest.mark.parametrize("how", ["killed", "wiped"])
async def test_readers_and_writers_go_on_when_nats_comes_back(fragile: NatsServer, stream: str, how: str) -> None:
    async with connected(fragile) as bus:
        letters = Letters()
        async with consuming(bus, stream, letters):
            await publish(bus, stream, "a")
            await letters.are("a")
            connections = bus.connections
            fragile.kill()

            async def lost() -> bool:
                return not bus.connected

            await eventually(lost, "the bus says that it is not connected")
            with pytest.raises(BusUnavailable):
                await bus.publish(f"{stream}.letter", b"lost", {})
            if how == "wiped":
                fragile.wipe()
            else:
                fragile.start()
            await publish(bus, stream, "b")
            await letters.are("a", "b")
            assert bus.connections == connections + 1


async def test_a_frozen_nats_is_away_in_time(fragile: NatsServer, stream: str) -> None:
    async with connected(fragile) as bus:
        await publish(bus, stream, "a")
        fragile.freeze()
        try:
            async with asyncio.timeout(10):
                with pytest.raises(BusUnavailable):
                    await bus.publish(f"{stream}.letter", b"b", {}, timeout_s=0.3)
        finally:
            fragile.thaw()
        await publish(bus, stream, "c")


async def test_a_bus_can_be_made_before_nats_is_there(fragile: NatsServer, stream: str) -> None:
    fragile.stop()
    bus = await Bus.connect(fragile.url, "test")
    letters = Letters()
    async with consuming(bus, stream, letters):
        assert not bus.connected
        with pytest.raises(BusUnavailable):
            await bus.ensure_stream(stream, [f"{stream}.>"])
        fragile.start()
        await publish(bus, stream, "a")
        await letters.are("a")
    await bus.close()


@pytest.mark.parametrize("attempted", [False, True])
async def test_a_bus_can_be_closed_while_nats_is_away(fragile: NatsServer, attempted: bool) -> None:
    fragile.stop()
    try:
        async with asyncio.timeout(10):
            bus = await Bus.connect(fragile.url, "test")
            if attempted:
                await eventually(lambda: _true(bus._begun), "it tries to connect")
            await bus.close()
    finally:
        fragile.start()


async def test_messages_in_hand_are_handled_before_a_reader_ends(nats: NatsServer, stream: str) -> None:
    begun, may_end, handled = asyncio.Event(), asyncio.Event(), list[str]()

    async def handle(messages: Sequence[Message]) -> None:
        begun.set()
        await may_end.wait()
        handled.extend(message.data.decode() for message in messages)

    async with connected(nats) as bus:
        await publish(bus, stream, "a")
        task = asyncio.create_task(bus.consume(stream, "reader", [f"{stream}.*"], handle))
        await begun.wait()
        task.cancel()
        asyncio.get_running_loop().call_later(0.05, may_end.set)
        await asyncio.wait([task])
        assert handled == ["a"]
        letters = Letters()
        async with consuming(bus, stream, letters):
            await publish(bus, stream, "b")
            await letters.are("b")


async def _true(answer: object) -> bool:
    return bool(answer)
