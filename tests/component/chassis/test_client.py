"""Calls to another service: what they carry, when they end, and what they say when they cannot be made."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from services.chassis import auth, client
from services.chassis.auth import IdentityUnavailable, ServiceToken, caller
from services.chassis.errors import refusal_of
from services.chassis.interceptors import time_left
from services.chassis.settings import Settings
from services.chassis.tracing import current_traceparent
from tests.support.issuer import Issuer, running_issuer
from tests.support.ports import free_port
from tests.support.refused import outcome
from tests.support.ruled_echo import Echo, EchoStub, Text, add_echo
from tests.support.waiting import eventually


def settings(issuer: Issuer, **environ: str) -> Settings:
    return Settings.read("order", {"SHOPMESH_ISSUER": issuer.url, **environ})


@asynccontextmanager
async def service_token(issuer: Issuer, **environ: str) -> AsyncIterator[ServiceToken]:
    async with httpx.AsyncClient(trust_env=False, timeout=2) as http:
        yield ServiceToken(settings(issuer, **environ), http)


@asynccontextmanager
async def calling(address: str, issuer: Issuer, default_s: float = 60.0) -> AsyncIterator[EchoStub]:
    """As the order service."""
    async with (
        service_token(issuer) as token,
        client.channel(address, "echo", token, "ruled", lambda: default_s) as channel,
    ):
        yield EchoStub(channel)


async def test_a_service_calls_with_its_own_token_but_not_where_anybody_may(
    echo: Echo, address: str, issuer: Issuer
) -> None:
    carried: list[tuple[str, Any]] = []

    async def say(request: Any, context: Any) -> Any:
        carried.append((request.text, dict(context.invocation_metadata()).get("authorization")))
        if request.text == "order only":
            assert caller().client == "order"
        return request

    echo.say = say
    async with calling(address, issuer) as stub:
        await stub.Say(Text(text="public"))
        await stub.SayToOrder(Text(text="order only"))
        await stub.SayToOrder(Text(text="order only"))

    (public, none), (_, first), (_, second) = carried
    assert (public, none) == ("public", None)
    assert first == second
    assert first.startswith("Bearer ")


async def test_a_call_ends_with_the_call_that_it_serves(echo: Echo, address: str, issuer: Issuer) -> None:
    left: list[float] = []

    async with calling(address, issuer) as onward:

        async def say(request: Any, context: Any) -> Any:
            if request.text == "outer":
                await onward.Say(Text(text="inner"))
                await onward.Say(Text(text="inner"), timeout=0.5)
                await onward.Say(Text(text="inner"), timeout=30)
            else:
                left.append(context.time_remaining())
            return request

        echo.say = say
        async with grpc.aio.insecure_channel(address) as channel:
            await EchoStub(channel).Say(Text(text="outer"), timeout=3)
            await EchoStub(channel).Say(Text(text="outer"))
        await onward.Say(Text(text="inner"))

    whole, given, too_long, *_, default = left
    # gRPC rounds up a little.
    assert 0 < whole < 3.1
    assert 0 < given < 0.6
    assert 0 < too_long < 3.1
    assert 3.1 < default < 70


async def test_a_stream_has_no_deadline_of_its_own(echo: Echo, address: str, issuer: Issuer) -> None:
    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        yield Text(text=str(time_left()))

    echo.watch = watch
    async with calling(address, issuer, default_s=0.1) as stub:
        assert [message.text async for message in stub.Watch(Text())] == ["None"]


async def test_without_a_token_the_call_says_so_and_the_next_one_tries_again(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_RETRY_S", 0)
    with running_issuer() as issuer:
        issuer.away = True
        async with calling(address, issuer) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stub.SayToOrder(Text())
            refusal = refusal_of(error.value)
            assert refusal is not None
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "IDENTITY_UNAVAILABLE")

            issuer.away = False
            # That issuer's token is a stranger's to the service, but it was sent.
            assert (await outcome(stub.SayToOrder(Text()))).reason == "TOKEN_INVALID"


async def test_trace_ids_go_along(echo: Echo, address: str, issuer: Issuer) -> None:
    heard: list[str | None] = []

    async with calling(address, issuer) as onward:

        async def say(request: Any, context: Any) -> Any:
            heard.append(current_traceparent())
            if request.text == "outer":
                await onward.Say(Text(text="inner"))
            return request

        echo.say = say
        async with grpc.aio.insecure_channel(address) as channel:
            sent = f"00-{'a' * 32}-{'b' * 16}-00"
            await EchoStub(channel).Say(Text(text="outer"), metadata=[("traceparent", sent)])
            await EchoStub(channel).Say(Text(text="outer"))
            await EchoStub(channel).Say(Text(text="outer"), metadata=[("traceparent", "nonsense")])

    assert heard[:2] == [sent, sent]
    for outer, inner in (heard[2:4], heard[4:6]):
        assert outer is not None
        assert outer == inner
        assert outer.endswith("-00")


async def test_a_server_that_comes_back_is_reached_at_once(issuer: Issuer) -> None:
    port = free_port()
    async with calling(f"127.0.0.1:{port}", issuer) as stub:
        assert (await outcome(stub.Say(Text()))).code is grpc.StatusCode.UNAVAILABLE
        server = grpc.aio.server()
        add_echo(Echo(), server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()

        async def answered() -> bool:
            return (await outcome(stub.Say(Text()))).code is grpc.StatusCode.OK

        await eventually(answered, "the channel has connected again", deadline_s=5)
        await server.stop(None)


async def test_a_token_is_asked_for_once_whoever_needs_it(issuer: Issuer) -> None:
    before = issuer.token_requests
    async with service_token(issuer) as token:
        headers = await asyncio.gather(*(token.header() for _ in range(10)))

    assert len(set(headers)) == 1
    assert issuer.token_requests == before + 1


async def test_a_token_is_renewed_at_half_of_its_life_and_outlives_an_outage() -> None:
    now = 0.0
    with running_issuer() as issuer:
        async with httpx.AsyncClient(trust_env=False) as http:
            token = ServiceToken(settings(issuer), http, lambda: now)

            async def renewed() -> bool:
                nonlocal now
                now = min(now + 1, 299.0)  # a failed request may still be on its way, and puts the next one off
                return await token.header() != first

            first = await token.header()
            now = 149.0
            assert await token.header() == first
            assert issuer.token_requests == 1

            issuer.away, now = True, 151.0
            assert await token.header() == first
            await eventually(lambda: asked(issuer, 2), "a new one was asked for")
            issuer.away = False
            await eventually(renewed, "the token is renewed")

            issuer.away, now = True, 1000.0
            with pytest.raises(IdentityUnavailable):
                await token.header()


async def asked(issuer: Issuer, times: int) -> bool:
    return issuer.token_requests >= times


async def test_the_secret_is_read_from_its_file(issuer: Issuer, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    async with service_token(issuer, SHOPMESH_CLIENT_SECRET_FILE=str(secret)) as token:
        await token.header()

    assert issuer.last_form["client_secret"] == ["s3cret"]
    assert issuer.last_form["grant_type"] == ["client_credentials"]


async def test_a_secret_that_is_not_there_is_an_outage(issuer: Issuer, tmp_path: Path) -> None:
    async with service_token(issuer, SHOPMESH_CLIENT_SECRET_FILE=str(tmp_path / "none")) as token:
        with pytest.raises(IdentityUnavailable):
            await token.header()
