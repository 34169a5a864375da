"""Spans, as a real OTLP receiver gets them."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import grpc
import pytest
from opentelemetry.instrumentation.grpc import aio_client_interceptors
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from services.chassis.database import Database
from services.chassis.otlp import Exporter
from services.chassis.settings import Settings
from services.chassis.tracing import SpanKind, current_traceparent, span, tracing
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

CODE = "rpc.grpc.status_code"
RPC = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": "Say", CODE: "0"}


class MugNotFound(NotFound):
    reason = "MUG_NOT_FOUND"
    message = "There is no such mug."


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        tracing.export(Settings.read("echo", {"SHOPMESH_OTLP_ENDPOINT": receiver.endpoint}))
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
        assert (rpc.name, rpc.kind, rpc.service, rpc.status) == (f"/{SERVICE}/Say", kind, "echo", "UNSET")
        assert rpc.attributes == RPC | more
    assert (sql.name, sql.kind, sql.status) == ("select", "CLIENT", "UNSET")
    assert sql.attributes == {
        "db.system.name": "postgresql",
        "db.namespace": "postgres",
        "db.query.text": "select $1::int",
        "server.address": server.hostname,
        "server.port": str(server.port),
    }


async def test_statements_of_a_transaction_have_spans_and_say_how_they_failed(
    receiver: Receiver, postgres: Postgres
) -> None:
    database = await Database.connect(postgres.url("postgres"))
    with span("settle", parent=SAMPLED), pytest.raises(asyncpg.DivisionByZeroError):
        async with database.transaction() as connection:
            await connection.fetch("select 1 / $1::int", 0)
    await database.fetchval("select 'in no span'")
    await database.close()

    settle, *statements = sorted(await ended(receiver, 4), key=lambda each: each.parent_id != CALLER)
    assert settle.name == "settle"
    assert {each.name: (each.status, each.attributes.get("error.type")) for each in statements} == {
        "begin": ("UNSET", None),
        "select": ("ERROR", "22012"),
        "rollback": ("UNSET", None),
    }


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
    told = {(each.kind, each.attributes.get("rpc.grpc.status_code"), each.status) for each in found}
    assert told == {
        ("INTERNAL", None, "UNSET"),
        ("CLIENT", "3", "ERROR"),
        ("SERVER", "3", "UNSET"),
        ("CLIENT", "5", "ERROR"),
        ("SERVER", "5", "UNSET"),
    }


async def test_the_spans_of_opentelemetrys_own_client_are_continued(receiver: Receiver, traced: str) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Exporter(receiver.endpoint)))
    theirs = aio_client_interceptors(provider)  # type: ignore[no-untyped-call]
    async with grpc.aio.insecure_channel(traced, interceptors=theirs) as channel:
        with span("outside", parent=SAMPLED):
            await EchoStub(channel).Say(Text(text="hi"))
    provider.shutdown()

    by_kind = {each.kind: each for each in await ended(receiver, 3)}
    client, server = by_kind["CLIENT"], by_kind["SERVER"]
    assert (server.parent_id, server.name) == (client.span_id, client.name)
    assert client.attributes.items() >= {key: value for key, value in RPC.items() if key != CODE}.items()


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
    assert server.attributes["rpc.grpc.status_code"] == "5"
    assert server.status == "UNSET"
    assert server.events == ()


async def test_an_unexpected_error_is_one(receiver: Receiver, traced: str, echo: Echo) -> None:
    async def fail(request: Any, context: Any) -> Any:
        raise KeyError

    echo.say = fail
    assert await say(traced, SAMPLED) is grpc.StatusCode.INTERNAL

    (server,) = await ended(receiver, 1)
    assert server.attributes["rpc.grpc.status_code"] == "13"
    assert server.status == "ERROR"


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
