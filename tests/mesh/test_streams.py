"""How Envoy carries a stream: as long as it lasts, apart from calls, over all doors, and only once."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from shop.order.v1 import order_pb2

from tests.mesh.calls import ORDER, WATCH, WATCH_REQUEST, Stream, call, watch
from tests.mesh.test_retries_stay_within_their_budget import NEVER_EJECTED, UNLIMITED
from tests.mesh.test_the_three_doors import frame
from tests.support.breaking import INTERNAL_ERROR, REFUSED_STREAM, breaking
from tests.support.doors import read_json
from tests.support.mesh import Mesh
from tests.support.refused import outcome
from tests.support.waiting import DEADLINE_S, eventually

SERVICE = "order"
GET = "/shop.order.v1.OrderService/GetOrder"
REST = f"/v1/{ORDER}:watch"
FIRST, SECOND = [
    order_pb2.WatchOrderResponse(order=order_pb2.Order(name=ORDER, etag=f'"{version}"')) for version in (1, 2)
]
OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


@pytest.fixture
async def web(mesh: Mesh) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{mesh.envoy.edge}", trust_env=False, timeout=DEADLINE_S) as client:
        yield client


async def ended(stream: Stream) -> grpc.StatusCode:
    """How, once all is read."""

    async def read() -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    await outcome(read())
    return await stream.code()


# --- over gRPC-web and REST


async def pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Of a body, as they come."""
    async for piece in answer.aiter_raw():
        if piece:
            yield piece


async def test_rest_streams_an_array(web: httpx.AsyncClient, ann: dict[str, str]) -> None:
    async with web.stream("GET", REST, headers=ann | {"x-times": "2", "x-wait": "0.3"}) as answer:
        came = [piece async for piece in pieces(answer)]

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(b"".join(came))[1]["order"]["etag"] == '"2"'
    assert json.loads(came[0] + b"]")[0]["order"]["etag"] == '"1"'


async def test_a_refusal_over_rest_is_one_as_long_as_nothing_was_said(
    web: httpx.AsyncClient, ann: dict[str, str]
) -> None:
    before = await web.get(REST, headers=ann | {"x-times": "0", "x-abort": "NOT_FOUND"})
    after = await web.get(REST, headers=ann | {"x-abort": "UNAVAILABLE"})

    assert (before.status_code, read_json(before).reason) == (404, "AS_ASKED")
    assert after.status_code == 200
    assert [each["order"]["etag"] for each in after.json()] == ['"1"']


@pytest.mark.parametrize("text", [False, True])
async def test_grpc_web_streams_messages_as_they_come(web: httpx.AsyncClient, ann: dict[str, str], text: bool) -> None:
    kind = f"application/grpc-web{'-text' if text else ''}+proto"
    headers = ann | {"content-type": kind, "accept": kind, "x-times": "2", "x-wait": "0.3", "x-abort": "UNAVAILABLE"}
    sent = base64.b64encode(frame(WATCH_REQUEST)) if text else frame(WATCH_REQUEST)
    async with web.stream("POST", WATCH, content=sent, headers=headers) as answer:
        came = [base64.b64decode(piece) if text else piece async for piece in pieces(answer)]

    first, second = frame(FIRST.SerializeToString()), frame(SECOND.SerializeToString())
    assert came[0] == first
    assert b"".join(came).startswith(first + second + b"\x80")
    assert b"grpc-status:14" in b"".join(came)


# --- apart from calls


async def test_streams_have_a_limit_of_their_own(mesh: Mesh, edge: grpc.aio.Channel, ann: dict[str, str]) -> None:
    breaker = {"max_streams": 2, "max_requests": 1}
    async with mesh.policy(SERVICE, circuit_breaker=breaker, rate_limit=UNLIMITED):
        opened = list[Stream]()

        async def refused() -> bool:
            stream = watch(edge, ann, wait="60")
            opened.append(stream)
            return (await outcome(first_of(stream))).code is UNAVAILABLE

        await eventually(refused, "a stream too many is refused")
        third = watch(edge, ann)
        assert await ended(third) is UNAVAILABLE
        assert dict(await third.trailing_metadata())["x-envoy-overloaded"] == "true"
        assert (await outcome(call(edge, GET, metadata=tuple(ann.items())))).code is OK
        for stream in opened:
            stream.cancel()


async def first_of(stream: Stream) -> None:
    await stream.read()


@pytest.mark.parametrize(("code", "again"), [(INTERNAL_ERROR, False), (REFUSED_STREAM, True)])
async def test_a_stream_is_asked_for_again_only_when_it_surely_did_not_begin(
    mesh: Mesh, edge: grpc.aio.Channel, ann: dict[str, str], code: int, again: bool
) -> None:
    async with (
        mesh.policy(SERVICE, ejection=NEVER_EJECTED, rate_limit=UNLIMITED),
        breaking(mesh.etcd.endpoint, SERVICE, "broken", code) as broken,
    ):
        await mesh.healthy(f"{SERVICE}/streams", 2)

        codes = [await ended(watch(edge, ann)) for _ in range(20)]

        assert broken.calls > 0
        assert codes.count(UNAVAILABLE) == (0 if again else broken.calls)
        assert codes.count(OK) == 20 - codes.count(UNAVAILABLE)


# --- how long, and how many


async def test_a_connection_takes_1024_streams_at_a_time(mesh: Mesh) -> None:
    host, port = mesh.envoy.edge.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
    head = await reader.readexactly(9)
    settings = dict(struct.iter_unpack(">HI", await reader.readexactly(int.from_bytes(head[:3]))))
    writer.close()

    assert head[3] == 4
    assert settings[3] == 1024


async def test_a_stream_may_say_nothing_for_longer_than_15_seconds(
    quiet: Stream,
) -> None:
    assert await quiet.read() == SECOND.SerializeToString()
