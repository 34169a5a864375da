"""`shopmesh order ID --watch`: each version of an order as it comes, over the edge."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from uuid import UUID

import grpc
from shop.order.v1 import order_pb2
from shop.order.v1.order_pb2_grpc import OrderServiceStub

from services.chassis.errors import refusal_of
from services.chassis.patience import pause_s
from services.cli.identity import access_token
from services.failure import Failure

TOKEN_VARIABLE = "SHOPMESH_TOKEN"  # noqa: S105  a name
CUSTOMERS = ("ann", "bob")
"""Demo users who may place orders."""
OPTIONS = [
    ("grpc.enable_http_proxy", 0),  # gRPC would send even calls to 127.0.0.1 through the proxy that http_proxy names.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

type Tokens = Callable[[], str]
"""Gives a fresh access token each time; may raise Failure."""


def customers(token_url: str) -> Iterator[Tokens]:
    """Whose order it may be: who owns the token in SHOPMESH_TOKEN, else the demo users."""
    if given := os.environ.get(TOKEN_VARIABLE):
        yield lambda: given
    else:
        for user in CUSTOMERS:
            yield partial(access_token, token_url, user)


async def follow(edge: str, order: UUID, owners: Iterator[Tokens], tell: Callable[[str], None]) -> None:
    """Returns when the order has come to its end.

    Asks one owner after the other, until the order is there. Goes on by itself when the stream moves or the shop is
    away, for ever, and gets a new token when one has ended. Raises Failure when it is refused.
    """
    name, etag, failures = f"orders/{order}", "", 0
    tokens = next(owners)
    async with grpc.aio.insecure_channel(edge, options=OPTIONS) as channel:
        token = await asyncio.to_thread(tokens)
        while True:
            began = time.monotonic()
            request = order_pb2.WatchOrderRequest(name=name, after_etag=etag)
            try:
                async for answer in OrderServiceStub(channel).WatchOrder(
                    request, metadata=(("authorization", f"Bearer {token}"),)
                ):
                    etag, failures = answer.order.etag, 0
                    tell(_line(answer.order))
            except grpc.aio.AioRpcError as error:
                code = error.code()
                if code is grpc.StatusCode.NOT_FOUND and not etag and (following := next(owners, None)):
                    tokens = following
                    token = await asyncio.to_thread(tokens)
                elif code is grpc.StatusCode.UNAUTHENTICATED and time.monotonic() - began > 1:
                    token = await asyncio.to_thread(tokens)
                elif code is grpc.StatusCode.UNAVAILABLE:
                    if failures == 1:  # The first time it has moved, or will be back at once.
                        tell(f"{_clock(time.time())}  the shop does not answer ({error.details()}): waiting")
                    await asyncio.sleep(pause_s(failures) if failures else 0)
                    failures += 1
                else:
                    raise Failure(_why_not(error, name)) from None
            else:
                return


def _why_not(error: grpc.aio.AioRpcError, name: str) -> str:
    refusal = refusal_of(error)
    if refusal and refusal.reason == "ORDER_NOT_FOUND":
        whose = f"the customer of the token in {TOKEN_VARIABLE} has" if os.environ.get(TOKEN_VARIABLE) else (
            f"none of the demo users ({', '.join(CUSTOMERS)}) has"
        )  # fmt: skip
        return (
            f"{whose} an order {name}: to watch that of another customer, put a token of theirs into {TOKEN_VARIABLE}"
        )
    return f"the shop refused: {error.code().name} {error.details()}"


def _line(order: order_pb2.Order) -> str:
    state = order_pb2.Order.State.Name(order.state).removeprefix("STATE_")
    version = order.etag.strip('"')
    return (
        f"{_clock(order.update_time.ToNanoseconds() / 1e9)}  version {version}  {state} {order.state_reason}".rstrip()
    )


def _clock(when: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.gmtime(when))}.{int(when * 1000) % 1000:03}"
