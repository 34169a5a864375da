"""Spans, as a real OTLP receiver gets them."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import aio_client_interceptors
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from services.chassis import logs
from services.chassis.database import Database
from services.chassis.interceptors import StreamMoved
from services.chassis.settings import Settings
from services.chassis.tracing import Part, SpanKind, current_traceparent, span, together, tracing
from services.refusals import NotFound
from tests.component.chassis.test_client import calling
from tests.support.issuer import Issuer
from tests.support.otlp import Receiver, Span, receiving
from tests.support.postgres import Postgres
from tests.support.refused import outcome
from tests.support.ruled_echo import SERVICE, Echo, EchoStub, Text, add_echo
from tests.support.serving import serving_at
from tests.support.waiting import eventually

TRACE, CALLER = "a" * 32, "b" * 16
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"

CODE = "rpc.response.status_code"
RPC = {"rpc.system.name": "grpc", "rpc.method": f"{SERVICE}/Say", CODE: "OK"}


class MugNotFound(NotFound):
    reason = "MUG_NOT_FOUND"
    message = "There is no such mug."


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        tracing.export(Settings.read("echo", {"SHOPMESH_OTLP_ENDPOINT": receiver.endpoint}), "fruit")
        yield receiver
        tracing.close()
        tracing.sampling_percent = 100.0


@pytest.fixture
async def traced(receiver: Receiver, echo: Echo, issuer: Issuer) -> AsyncIterator[str]:
    """The address of a server that was made when there was a receiver."""
    async with serving_at(add_echo, echo, issuer) as address:
        yield address


def spans(receiver: Receiver, trace_id: str = TRACE) -> list[Span]:
    """All there are: what is left in the process is sent first."""
    assert tracing.recorder is not None
    tracing.recorder.flush()
    return receiver.trace(trace_id)


async def ended(receiver: Receiver, count: int, trace_id: str = TRACE) -> list[Span]:
    """The same, once there are `count`: a caller has his answer a moment before the server's span ends."""

    async def enough() -> list[Span] | None:
        found = spans(receiver, trace_id)
        return found if len(found) >= count else None

    return await eventually(enough, f"{count} spans have ended") or []


async def say(address: str, traceparent: str | None = None, text: str = "outer") -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(address) as channel:
        metadata = [("traceparent", traceparent)] if traceparent else []
        return (await outcome(EchoStub(channel).Say(Text(text=text), metadata=metadata))).code


async def test_one_trace_leads_through_service_database_and_the_next_service(
    receiver: Receiver, traced: str, echo: Echo, issuer: Issuer, postgres: Postgres
) -> None:
    database = await Database.connect(postgres.url("postgres"))
    async with calling(traced, issuer) as onward:

        async def handler(request: Any, context: Any) -> Any:
            if request.text == "outer":
                await database.fetchval("select $1::int", 1)
                await onward.Say(Text(text="inner"))
            return request

        echo.say = handler
        await say(traced, SAMPLED)
    await database.close()

    found = await ended(receiver, 4)
    (outer,) = (each for each in found if each.parent_id == CALLER)
    sql, asked = sorted((each for each in found if each.parent_id == outer.span_id), key=lambda each: len(each.name))
    (inner,) = (each for each in found if each.parent_id == asked.span_id)
    server = urlsplit(postgres.url("postgres"))
    for rpc, kind, more in (outer, "SERVER", {}), (asked, "CLIENT", {"server.address": "echo"}), (inner, "SERVER", {}):
        assert (rpc.name, rpc.kind, rpc.service, rpc.status) == (f"{SERVICE}/Say", kind, "echo", "UNSET")
        assert rpc.attributes == RPC | more
    assert (sql.name, sql.kind, sql.status) == ("select", "CLIENT", "UNSET")
    assert sql.attributes == {
        "db.system.name": "postgresql",
        "db.namespace": "postgres",
        "db.query.summary": "select",
        "db.query.text": "select $1::int",
        "server.address": server.hostname,
        "server.port": str(server.port),
    }


async def test_statements_of_a_transaction_have_spans_and_say_how_they_failed(
    receiver: Receiver, postgres: Postgres
) -> None:
    database = await Database.connect(postgres.url("postgres"))
    with pytest.raises(asyncpg.DivisionByZeroError), span("settle", parent=SAMPLED):
        async with database.transaction() as connection:
            await connection.fetch("select 1 / $1::int", 0)
    await database.fetchval("select 'in no span'")
    await database.close()

    settle, *statements = sorted(await ended(receiver, 4), key=lambda each: each.parent_id != CALLER)
    assert settle.name == "settle"
    codes = "error.type", "db.response.status_code"
    assert {each.name: (each.status, *map(each.attributes.get, codes)) for each in statements} == {
        "begin": ("UNSET", None, None),
        "select": ("ERROR", "22012", "22012"),
        "rollback": ("UNSET", None, None),
    }
    assert not [each for each in (settle, *statements) if each.events], "an error's words stay where they are"
    assert (settle.status, settle.attributes) == ("ERROR", {"error.type": "DivisionByZeroError"})


async def test_to_the_one_who_asks_a_refusal_is_an_error(
    receiver: Receiver, traced: str, echo: Echo, issuer: Issuer
) -> None:
    async def refuse(request: Any, context: Any) -> AsyncIterator[Any]:
        yield request
        raise MugNotFound

    echo.watch = refuse
    async with calling(traced, issuer) as onward:
        with span("ask", parent=SAMPLED):
            assert (await outcome(onward.Say(Text(text="longer than ten")))).code is grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(grpc.aio.AioRpcError):
                [_ async for _ in onward.Watch(Text())]

    found = await ended(receiver, 5)
    told = {(each.kind, each.status, *map(each.attributes.get, (CODE, "fruit.reason", "error.type"))) for each in found}
    assert told == {
        ("INTERNAL", "UNSET", None, None, None),
        ("CLIENT", "ERROR", "INVALID_ARGUMENT", "INVALID_REQUEST", "INVALID_ARGUMENT"),
        ("SERVER", "UNSET", "INVALID_ARGUMENT", "INVALID_REQUEST", None),
        ("CLIENT", "ERROR", "NOT_FOUND", "MUG_NOT_FOUND", "NOT_FOUND"),
        ("SERVER", "UNSET", "NOT_FOUND", "MUG_NOT_FOUND", None),
    }


async def test_the_spans_of_opentelemetrys_own_client_are_continued(receiver: Receiver, traced: str) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(receiver.endpoint)))
    theirs = aio_client_interceptors(provider)  # type: ignore[no-untyped-call]
    async with grpc.aio.insecure_channel(traced, interceptors=theirs) as channel:
        with span("outside", parent=SAMPLED):
            await EchoStub(channel).Say(Text(text="hi"))
    provider.shutdown()

    by_kind = {each.kind: each for each in await ended(receiver, 3)}
    client, server = by_kind["CLIENT"], by_kind["SERVER"]
    # Theirs still has the names of before the conventions for rpcs were stable.
    assert (server.parent_id, f"/{server.name}") == (client.span_id, client.name)


async def test_what_is_not_sampled_makes_no_span_and_hands_its_ids_on(
    receiver: Receiver, traced: str, echo: Echo, issuer: Issuer, postgres: Postgres
) -> None:
    heard: list[str | None] = []
    database = await Database.connect(postgres.url("postgres"))
    async with calling(traced, issuer) as onward:

        async def handler(request: Any, context: Any) -> Any:
            heard.append(current_traceparent())
            if request.text == "outer":
                await database.fetchval("select 1")
                await onward.Say(Text(text="inner"))
            return request

        echo.say = handler
        await say(traced, UNSAMPLED)
    await database.close()

    assert heard == [UNSAMPLED, UNSAMPLED]
    assert spans(receiver) == []


@pytest.mark.parametrize(("percent", "recorded"), [(0.0, False), (100.0, True)])
async def test_where_a_trace_begins_the_share_that_is_configured_is_recorded(
    percent: float, recorded: bool, receiver: Receiver, traced: str, echo: Echo
) -> None:
    tracing.sampling_percent = percent
    heard: list[str] = []

    async def handler(request: Any, context: Any) -> Any:
        heard.append(current_traceparent() or "")
        return request

    echo.say = handler
    await say(traced)

    _, trace_id, _, flags = heard[0].split("-")
    assert bool(int(flags, 16) & 1) == recorded
    if recorded:
        await ended(receiver, 1, trace_id)
    assert len(spans(receiver, trace_id)) == (1 if recorded else 0)


async def test_a_refusal_is_no_error_of_the_server(receiver: Receiver, traced: str, echo: Echo) -> None:
    async def refuse(request: Any, context: Any) -> Any:
        raise MugNotFound

    echo.say = refuse
    assert await say(traced, SAMPLED) is grpc.StatusCode.NOT_FOUND

    (server,) = await ended(receiver, 1)
    assert server.attributes == RPC | {CODE: "NOT_FOUND", "fruit.reason": "MUG_NOT_FOUND"}
    assert server.status == "UNSET"
    assert server.events == ()


async def test_the_end_of_a_stream_whose_time_is_over_is_none_either(
    receiver: Receiver, traced: str, echo: Echo
) -> None:
    async def move(request: Any, context: Any) -> Any:
        raise StreamMoved

    echo.say = move
    assert await say(traced, SAMPLED) is grpc.StatusCode.UNAVAILABLE

    (server,) = await ended(receiver, 1)
    assert server.attributes == RPC | {CODE: "UNAVAILABLE", "fruit.reason": "STREAM_MOVED"}
    assert server.status == "UNSET"


async def test_an_unexpected_error_is_one(receiver: Receiver, traced: str, echo: Echo) -> None:
    async def fail(request: Any, context: Any) -> Any:
        raise KeyError

    echo.say = fail
    assert await say(traced, SAMPLED) is grpc.StatusCode.INTERNAL

    (server,) = await ended(receiver, 1)
    assert server.attributes == RPC | {CODE: "INTERNAL", "fruit.reason": "INTERNAL", "error.type": "INTERNAL"}
    assert server.status == "ERROR"


async def test_each_span_of_a_call_about_an_order_tells_which(
    receiver: Receiver, traced: str, echo: Echo, issuer: Issuer, postgres: Postgres
) -> None:
    database = await Database.connect(postgres.url("postgres"))
    async with calling(traced, issuer) as onward:

        async def handler(request: Any, context: Any) -> Any:
            if request.text == "outer":
                await database.fetchval("select 'before it is known'")
                logs.bind_order("orders/o1")
                await database.fetchval("select 'after'")
                await onward.Say(Text(text="inner"))
            return request

        echo.say = handler
        await say(traced, SAMPLED)
    await database.close()

    named = [
        (each.kind, each.attributes.get("db.query.text"))
        for each in await ended(receiver, 5)
        if each.attributes.get("fruit.order") == "orders/o1"
    ]
    assert sorted(named, key=str) == [("CLIENT", "select 'after'"), ("CLIENT", None), ("SERVER", None)]


@pytest.mark.parametrize("first", [SAMPLED, UNSAMPLED])
async def test_what_is_done_for_several_is_beneath_one_of_them_and_the_others_link_to_it(
    first: str, receiver: Receiver, postgres: Postgres
) -> None:
    traces = ["1" * 32, "2" * 32]
    parts = [Part("settle", f"00-{trace}-{CALLER}-01", {"fruit.order": f"orders/{trace[0]}"}) for trace in traces]
    database = await Database.connect(postgres.url("postgres"))
    with together(SpanKind.INTERNAL, [Part("settle", first), *parts]):
        await database.fetchval("select 1")
    await database.close()

    every = spans(receiver) + [each for trace in traces for each in spans(receiver, trace)]
    settles = [each for each in every if each.name == "settle"]
    (statement,) = (each for each in every if each.name == "select")
    shown = settles[0]
    assert (shown.trace_id, shown.links) == (TRACE if first == SAMPLED else traces[0], ())
    assert statement.parent_id == shown.span_id
    assert {each.links for each in settles[1:]} == {((shown.trace_id, shown.span_id),)}
    assert {each.parent_id for each in settles} == {CALLER}
    assert [each.attributes["fruit.order"] for each in settles[-2:]] == ["orders/1", "orders/2"]


async def test_own_spans_continue_the_trace_of_a_row(receiver: Receiver) -> None:
    with span("relay", SpanKind.PRODUCER, SAMPLED, {"order": "o1"}), span("inside"):
        assert (current_traceparent() or "").startswith(f"00-{TRACE}-")
    with span("relay", SpanKind.PRODUCER, UNSAMPLED):
        assert current_traceparent() == UNSAMPLED

    inside, relay = sorted(spans(receiver), key=lambda each: each.name)
    assert (relay.name, relay.kind, relay.parent_id, relay.attributes) == ("relay", "PRODUCER", CALLER, {"order": "o1"})
    assert (inside.name, inside.parent_id) == ("inside", relay.span_id)
    assert current_traceparent() is None


def test_without_a_receiver_ids_still_flow() -> None:
    with span("relay", parent=SAMPLED):
        assert current_traceparent() == SAMPLED
    with span("a new trace"):
        assert current_traceparent() is not None
