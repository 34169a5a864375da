"""What surrounds every call, on a real server: refusals, errors, deadlines, validation, one line each."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from structlog.testing import capture_logs

from services.chassis import errors
from services.chassis.interceptors import time_left
from services.refusals import Invalid, NotFound, Unavailable
from tests.support.issuer import Issuer
from tests.support.refused import Refused, outcome
from tests.support.ruled_echo import SERVICE, Echo, EchoStub, Text, add_echo
from tests.support.serving import bearing, serving_at
from tests.support.waiting import DEADLINE_S, eventually

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


class MugNotFound(NotFound):
    reason = "MUG_NOT_FOUND"
    message = "There is no such mug."


class KitchenAway(Unavailable):
    reason = "KITCHEN_AWAY"
    message = "The kitchen is away."


class NotAMug(Invalid):
    reason = "NOT_A_MUG"
    message = "That is not a mug."
    violations = (("mug.handle", "must be there"),)


def raising(error: Exception) -> Any:
    async def handler(request: Any, context: Any) -> Any:
        raise error

    return handler


async def say(stub: EchoStub, text: str = "hi", **options: Any) -> Refused:
    return await outcome(stub.Say(Text(text=text), **options))


def raw(channel: grpc.aio.Channel, rpc: str) -> Any:
    """Takes bytes for a message."""
    return channel.unary_unary(f"/{SERVICE}/{rpc}")


async def status_of(call: Any) -> status_pb2.Status:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    packed = dict(error.value.trailing_metadata())["grpc-status-details-bin"]
    assert isinstance(packed, bytes)
    return status_pb2.Status.FromString(packed)


async def test_a_refusal_reaches_the_caller_with_its_reason_and_facts(echo: Echo, stub: EchoStub) -> None:
    echo.say = raising(MugNotFound(mug="m1"))

    assert await say(stub) == Refused(grpc.StatusCode.NOT_FOUND, "MUG_NOT_FOUND", {"mug": "m1"})


async def test_a_stream_is_refused_after_what_it_has_said(echo: Echo, stub: EchoStub) -> None:
    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        yield request
        raise MugNotFound(mug="m1")

    echo.watch = watch
    heard = []

    async def listen() -> None:
        async for message in stub.Watch(Text(text="hi")):
            heard.append(message.text)  # noqa: PERF401  it ends by raising

    assert await outcome(listen()) == Refused(grpc.StatusCode.NOT_FOUND, "MUG_NOT_FOUND", {"mug": "m1"})
    assert heard == ["hi"]


async def test_a_stream_that_is_not_refused_ends_well(stub: EchoStub) -> None:
    assert [message.text async for message in stub.Watch(Text(text="3"))] == ["0", "1", "2"]


async def test_where_waiting_helps_the_answer_says_how_long(echo: Echo, stub: EchoStub) -> None:
    echo.say = raising(KitchenAway())

    info, retry = (await status_of(stub.Say(Text()))).details

    assert info.TypeName() == "google.rpc.ErrorInfo"
    told = error_details_pb2.RetryInfo()
    assert retry.Unpack(told)
    assert told.retry_delay.ToTimedelta() == KitchenAway.retry_after


async def test_violations_name_their_fields(echo: Echo, stub: EchoStub) -> None:
    echo.say = raising(NotAMug())

    _, detail = (await status_of(stub.Say(Text()))).details

    bad = error_details_pb2.BadRequest()
    assert detail.Unpack(bad)
    assert [(each.field, each.description) for each in bad.field_violations] == [("mug.handle", "must be there")]


@pytest.mark.parametrize(
    "error",
    [
        KeyError("secret"),
        # What a handler let through of another service is no answer of ours.
        grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), "secret"),
        TimeoutError("secret"),
        ExceptionGroup("secret", [MugNotFound()]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_unexpected_error_is_logged_once_and_tells_the_caller_nothing(
    error: Exception, echo: Echo, stub: EchoStub
) -> None:
    echo.say = raising(error)
    with capture_logs() as lines:
        status = await status_of(stub.Say(Text(), metadata=[("traceparent", f"00-{'a' * 32}-{'b' * 16}-00")]))

    refusal = errors.status_refusal(status)
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert refusal.metadata == {"trace_id": "a" * 32}
    assert b"secret" not in status.SerializeToString()
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["unexpected error"]


async def test_an_answer_that_cannot_be_rendered_is_an_unexpected_error(echo: Echo, stub: EchoStub) -> None:
    async def nothing(request: Any, context: Any) -> None:
        pass

    echo.say = nothing

    assert (await say(stub)).reason == "INTERNAL"


async def test_a_message_is_checked_before_its_handler_sees_it(echo: Echo, stub: EchoStub) -> None:
    echo.say = raising(AssertionError("the handler was called"))

    status = await status_of(stub.Say(Text(text="longer than ten")))

    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert [each.field for each in bad.field_violations] == ["text"]
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.parametrize(("rpc", "kind"), [("Say", "stream_unary"), ("Watch", "stream_stream")])
async def test_a_call_without_a_message_is_refused_at_once(channel: grpc.aio.Channel, rpc: str, kind: str) -> None:
    call = getattr(channel, kind)(f"/{SERVICE}/{rpc}")([], timeout=DEADLINE_S)

    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_is_no_message_is_refused(channel: grpc.aio.Channel) -> None:
    refused = await outcome(raw(channel, "Say")(b"\xff\xff"))

    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_nothing_of_a_caller_who_is_not_let_in_is_read(channel: grpc.aio.Channel) -> None:
    refused = await outcome(raw(channel, "SayToCustomer")(b"\xff\xff"))

    assert refused.reason == "TOKEN_INVALID"


async def test_a_call_without_a_deadline_gets_the_default_one(echo: Echo, issuer: Issuer) -> None:
    ended = asyncio.Event()

    async def for_ever(request: Any, context: Any) -> None:
        try:
            left = time_left()
            assert left is not None
            assert 0 < left <= 0.2
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise

    echo.say = for_ever
    async with (
        serving_at(add_echo, echo, issuer, default_s=0.2) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        refused = await say(EchoStub(channel))

    assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert ended.is_set()


async def test_the_deadline_of_the_caller_cancels_the_handler(echo: Echo, stub: EchoStub) -> None:
    ended = asyncio.Event()

    async def for_ever(request: Any, context: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise

    echo.say = for_ever
    with capture_logs() as lines:
        assert (await say(stub, timeout=0.2)).code is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: told(lines), "the line of the call")

    assert ended.is_set()
    assert calls(lines)[0]["code"] == "DEADLINE_EXCEEDED"


async def test_a_stream_has_no_deadline_but_its_own(echo: Echo, issuer: Issuer) -> None:
    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        assert time_left() is None
        yield request
        await asyncio.sleep(0.3)  # longer than the default deadline
        yield request

    echo.watch = watch
    async with (
        serving_at(add_echo, echo, issuer, default_s=0.1) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        assert len([message async for message in EchoStub(channel).Watch(Text())]) == 2


async def test_a_call_that_its_caller_gives_up_is_no_error(echo: Echo, stub: EchoStub) -> None:
    begun = asyncio.Event()

    async def for_ever(request: Any, context: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    echo.say = for_ever
    with capture_logs() as lines:
        call = stub.Say(Text())
        await begun.wait()
        call.cancel()
        await eventually(lambda: told(lines), "the line of the call")

    assert [(line["event"], line.get("code")) for line in lines] == [("call", "CANCELLED")]


async def test_a_stream_that_its_listener_leaves_is_closed(echo: Echo, stub: EchoStub) -> None:
    closed = asyncio.Event()

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            while True:
                yield request
                await asyncio.sleep(0)
        finally:
            closed.set()

    echo.watch = watch
    with capture_logs() as lines:
        call = stub.Watch(Text(text="hi"))
        await call.read()
        call.cancel()
        async with asyncio.timeout(60):
            await closed.wait()
        await eventually(lambda: told(lines), "the line of the call")

    assert [(line["event"], line.get("code")) for line in lines] == [("call", "CANCELLED")]


async def test_a_call_leaves_one_line_without_token_and_address(stub: EchoStub, issuer: Issuer) -> None:
    token = issuer.token("ann", ["customer"], email="ann@example.com")
    with capture_logs() as lines:
        await stub.SayToCustomer(Text(text="hi"), metadata=bearing(token))
        await say(stub, "longer than ten")

    customers, refused = lines
    assert customers.pop("ms") > 0
    assert customers == {
        "event": "call", "log_level": "info", "method": f"/{SERVICE}/SayToCustomer", "code": "OK", "caller": "ann",
    }  # fmt: skip
    assert (refused["code"], refused["reason"]) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


async def test_many_wrong_fields_still_fit_into_the_answer(echo: Echo, stub: EchoStub) -> None:
    class VeryWrong(Invalid):
        reason = "VERY_WRONG"
        message = "All of it."
        violations = tuple((f"lines[{n}].quantity", "must be from 1 to 999" * 5) for n in range(200))

    echo.say = raising(VeryWrong())

    assert (await say(stub)).reason == "VERY_WRONG"


def calls(lines: Any) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == "call"]


async def told(lines: Any) -> bool:
    return bool(calls(lines))


@pytest.mark.parametrize(("size", "code"), [(47 * 1024, grpc.StatusCode.OK), (49 * 1024, EXHAUSTED)])
async def test_metadata_have_one_limit_and_not_a_range_of_chance(
    stub: EchoStub, size: int, code: grpc.StatusCode
) -> None:
    for _ in range(10):
        answer = await outcome(stub.Say(Text(text="hello"), metadata=[("x-large", "a" * size)], timeout=DEADLINE_S))

        assert answer.code is code


async def test_a_message_beyond_4_mib_is_refused(channel: grpc.aio.Channel) -> None:
    say: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Say")

    refused = await outcome(say(bytes(4 * 1024 * 1024 + 1), timeout=DEADLINE_S))

    assert refused.code is EXHAUSTED


async def test_however_many_come_at_once_all_are_answered(stub: EchoStub) -> None:
    answers = await asyncio.gather(*(outcome(stub.Say(Text(text="hi"), timeout=DEADLINE_S)) for _ in range(2000)))

    assert {answer.code for answer in answers} == {grpc.StatusCode.OK}
