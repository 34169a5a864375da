"""What `shopmesh order ID --watch` prints, and when it goes on by itself, at an edge that does what a test wants."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, override
from uuid import UUID

import grpc
import pytest
from shop.order.v1 import order_pb2 as pb
from shop.order.v1.order_pb2_grpc import OrderServiceServicer, add_OrderServiceServicer_to_server

from services.cli.shop.following import customers, follow
from services.failure import Failure
from tests.support.ports import free_port
from tests.support.waiting import eventually

ORDER = UUID("00000000-0000-4000-8000-00000000000a")
PLACED, CANCELLED = pb.Order.STATE_PLACED, pb.Order.STATE_CANCELLED
UNAVAILABLE, UNAUTHENTICATED, NOT_FOUND = (
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND
)  # fmt: skip


def version(number: int, state: pb.Order.State.ValueType) -> pb.WatchOrderResponse:
    order = pb.Order(name=f"orders/{ORDER}", etag=f'"{number}"', state=state)
    order.update_time.FromSeconds(43_200 + number)
    return pb.WatchOrderResponse(order=order)


class Edge(OrderServiceServicer):
    """Each stream says what is next on its list; a status ends it, the end of a part with OK."""

    def __init__(self, *streams: list[pb.WatchOrderResponse | grpc.StatusCode | float]) -> None:
        self._streams = list(streams)
        self.asked: list[tuple[str, str]] = []
        """After which etag, with which token."""

    @override
    async def WatchOrder(
        self, request: pb.WatchOrderRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.WatchOrderResponse]:
        token = str(dict(context.invocation_metadata() or ())["authorization"]).removeprefix("Bearer ")
        self.asked.append((request.after_etag, token))
        for part in self._streams.pop(0):
            if isinstance(part, pb.WatchOrderResponse):
                yield part
            elif isinstance(part, float):
                await asyncio.sleep(part)
            else:
                await context.abort(part, "as the test wants")


def edge_of(*streams: list[pb.WatchOrderResponse | grpc.StatusCode | float]) -> Edge:
    return Edge(*streams)  # type: ignore[abstract]  # what the command never calls is UNIMPLEMENTED


@asynccontextmanager
async def served(edge: Edge, port: int = 0) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_OrderServiceServicer_to_server(edge, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def followed(edge: Edge, *owners: str) -> list[str]:
    """What is printed."""
    lines = list[str]()
    async with served(edge) as address:
        await follow(address, ORDER, (partial(str, owner) for owner in owners), lines.append)
    return lines


async def test_each_version_is_a_line_until_the_last() -> None:
    edge = edge_of([version(1, PLACED), version(2, CANCELLED)])

    assert await followed(edge, "ann") == ["12:00:01.000  version 1  PLACED", "12:00:02.000  version 2  CANCELLED"]


async def test_where_a_stream_breaks_off_it_goes_on_and_nothing_is_printed_twice() -> None:
    edge = edge_of([version(1, PLACED), UNAVAILABLE], [UNAVAILABLE], [version(2, CANCELLED)])

    first, away, last = await followed(edge, "ann")

    assert (first, last) == ("12:00:01.000  version 1  PLACED", "12:00:02.000  version 2  CANCELLED")
    assert "as the test wants" in away
    assert edge.asked == [("", "ann"), ('"1"', "ann"), ('"1"', "ann")]


async def test_what_ann_does_not_have_may_be_bobs() -> None:
    edge = edge_of([NOT_FOUND], [version(2, CANCELLED)])

    assert len(await followed(edge, "ann", "bob")) == 1
    assert [token for _, token in edge.asked] == ["ann", "bob"]


async def test_a_token_that_has_ended_is_replaced() -> None:
    edge = edge_of([version(1, PLACED), 1.1, UNAUTHENTICATED], [version(2, CANCELLED)])

    assert len(await followed(edge, "ann")) == 2


@pytest.mark.parametrize("refused", [UNAUTHENTICATED, NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED])
async def test_a_refusal_ends_it_and_says_why(refused: grpc.StatusCode) -> None:
    with pytest.raises(Failure, match=f"{refused.name} as the test wants"):
        await followed(edge_of([refused]), "ann")


async def test_an_edge_that_is_away_is_waited_for() -> None:
    port, lines = free_port(), list[str]()
    following = asyncio.create_task(follow(f"127.0.0.1:{port}", ORDER, iter([lambda: "ann"]), lines.append))

    async def told() -> bool:
        return bool(lines)

    await eventually(told, "it says that it waits")
    async with served(edge_of([version(2, CANCELLED)]), port):
        await following

    assert len(lines) == 2


def test_a_token_in_the_environment_is_the_only_one_that_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOPMESH_TOKEN", "carols")

    assert [token() for token in customers("http://nobody.example")] == ["carols"]
