"""How long a stream lasts, on a real server, and what ends it."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from structlog.testing import capture_logs

from services.chassis.interceptors import Around
from tests.support.issuer import Issuer
from tests.support.refused import Refused, outcome
from tests.support.ruled_echo import Echo, EchoStub, Text, add_echo
from tests.support.serving import bearing, guarded_at
from tests.support.waiting import DEADLINE_S, eventually

MOVED = Refused(grpc.StatusCode.UNAVAILABLE, "STREAM_MOVED")


class Streams:
    """What a test needs of a server with streams."""

    def __init__(self, echo: Echo, stub: EchoStub, around: Around) -> None:
        self.echo, self.stub, self.around = echo, stub, around
        self.sent = 0
        """Messages of a flood."""
        self.left = 0
        """How many streams the handler has been taken out of."""
        echo.watch = self.for_ever

    async def for_ever(self, request: Any, *_: Any) -> AsyncIterator[Any]:
        try:
            yield request
            await asyncio.Event().wait()
        finally:
            self.left += 1

    async def stuck(self) -> None:
        """Returns when no more of a flood is sent, because nobody reads."""

        async def look() -> bool:
            before = self.sent
            await asyncio.sleep(0.1)
            return self.sent == before > 0

        await eventually(look, "what nobody reads is sent no further")

    async def flood(self, *_: Any) -> AsyncIterator[Any]:
        try:
            while True:
                yield Text(text="x" * 100_000)
                self.sent += 1
        finally:
            self.left += 1


@pytest.fixture
async def streams(issuer: Issuer) -> AsyncIterator[Streams]:
    echo = Echo()
    async with (
        guarded_at(add_echo, echo, issuer) as (address, around),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Streams(echo, EchoStub(channel), around)


async def rest_of(call: Any) -> Refused:
    """How a stream ends, from where it was read to."""

    async def ended() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass
        if await call.code() is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
            )

    return await outcome(ended())


async def test_when_the_process_is_to_end_its_streams_go_on_elsewhere(streams: Streams) -> None:
    call: Any = streams.stub.Watch(Text(text="hi"), timeout=DEADLINE_S)
    assert (await call.read()).text == "hi"

    streams.around.end_streams()

    assert await rest_of(call) == MOVED
    assert streams.left == 1
    late = streams.stub.Watch(Text(text="hi"), timeout=DEADLINE_S)
    assert await rest_of(late) == MOVED


async def test_a_stream_that_is_to_end_while_it_begins_is_told_so(streams: Streams) -> None:
    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        streams.around.end_streams()
        yield request
        await asyncio.Event().wait()

    streams.echo.watch = watch

    assert await rest_of(streams.stub.Watch(Text(text="hi"), timeout=DEADLINE_S)) == MOVED


async def test_a_stream_goes_on_elsewhere_after_its_time(streams: Streams) -> None:
    streams.around.stream_s = 0.2
    with capture_logs() as lines:
        assert await rest_of(streams.stub.Watch(Text(text="hi"), timeout=DEADLINE_S)) == MOVED

    [line] = lines
    assert (line["event"], line["code"], line["reason"]) == ("call", "UNAVAILABLE", "STREAM_MOVED")
    assert line["ms"] >= 200


async def test_where_a_stream_goes_on_is_asked_for_at_once(streams: Streams) -> None:
    call: Any = streams.stub.Watch(Text(text="hi"), timeout=DEADLINE_S)
    await call.read()
    streams.around.end_streams()

    await rest_of(call)
    packed = dict(await call.trailing_metadata())["grpc-status-details-bin"]
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status_pb2.Status.FromString(packed).details)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 0


async def test_a_stream_ends_with_the_token_that_it_was_asked_for_with(streams: Streams, issuer: Issuer) -> None:
    ends = int(time.time()) + 2
    call: Any = streams.stub.WatchForCustomer(
        Text(text="hi"), metadata=bearing(issuer.token("ann", ["customer"], exp=ends)), timeout=DEADLINE_S
    )
    assert (await call.read()).text == "hi"

    assert await rest_of(call) == Refused(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    assert ends <= time.time()


async def test_who_does_not_read_is_told_when_they_do(streams: Streams) -> None:
    streams.echo.watch = streams.flood
    call: Any = streams.stub.Watch(Text(text="hi"), timeout=DEADLINE_S)
    await call.read()

    await streams.stuck()
    streams.around.end_streams()

    async def left() -> bool:
        return streams.left == 1

    await eventually(left, "the handler is left, though nobody reads")
    assert await rest_of(call) == MOVED


@pytest.mark.parametrize("how", ["the call", "the connection"])
async def test_who_leaves_in_the_middle_of_a_message_is_no_error(streams: Streams, issuer: Issuer, how: str) -> None:
    streams.echo.watch = streams.flood
    with capture_logs() as lines:
        async with guarded_at(add_echo, streams.echo, issuer) as (address, _):
            channel = grpc.aio.insecure_channel(address)
            call: Any = EchoStub(channel).Watch(Text(text="hi"), timeout=DEADLINE_S)
            await call.read()
            await streams.stuck()
            if how == "the call":
                call.cancel()
            await channel.close()

            async def told() -> bool:
                return bool(lines)

            await eventually(told, "the line of the call")

    assert [(line["event"], line.get("code")) for line in lines] == [("call", "CANCELLED")]
