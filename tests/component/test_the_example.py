"""examples/place_order.py, where the shop asks it to come back."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import override

from shop.order.v1 import order_pb2
from shop.order.v1.order_pb2_grpc import OrderServiceServicer, add_OrderServiceServicer_to_server

from services.refusals import Unavailable
from tests.support.example import place_order
from tests.support.issuer import Issuer
from tests.support.serving import serving_at

PAUSE_S = 0.7
"""More than the example waits of its own accord between its first attempts."""


class Closed(Unavailable):
    reason = "CLOSED"
    message = "The shop is about to open."
    retry_after = timedelta(seconds=PAUSE_S)


class ClosedForLong(Closed):
    retry_after = timedelta(days=1)


class OpeningSoon(OrderServiceServicer):
    """Refuses so many attempts, then answers. A refusal that is None comes too late for anybody."""

    def __init__(self, *refusals: Unavailable | None) -> None:
        self._refusals: Sequence[Unavailable | None] = refusals
        self.attempts: list[tuple[float, str]] = []

    @override
    async def PlaceOrder(self, request: order_pb2.PlaceOrderRequest, _: object) -> order_pb2.PlaceOrderResponse:
        self.attempts.append((time.monotonic(), request.request_id))
        if len(self.attempts) <= len(self._refusals):
            refusal = self._refusals[len(self.attempts) - 1]
            if refusal is None:
                await asyncio.Event().wait()
            else:
                raise refusal
        return order_pb2.PlaceOrderResponse(order=request.order)

    @override
    async def WatchOrder(
        self, request: order_pb2.WatchOrderRequest, _: object
    ) -> AsyncIterator[order_pb2.WatchOrderResponse]:
        yield order_pb2.WatchOrderResponse()


async def ordered(shop: OpeningSoon, issuer: Issuer) -> tuple[int | None, str, str]:
    async with serving_at(add_OrderServiceServicer_to_server, shop, issuer) as address:
        return await place_order(address, issuer.token("ann", ["customer"]), "products/mug=1")


async def test_it_comes_back_with_the_same_request_after_the_time_that_the_refusal_gives(issuer: Issuer) -> None:
    shop = OpeningSoon(Closed(), Closed())  # type: ignore[abstract]  # nobody calls the others

    status, said, _ = await ordered(shop, issuer)

    assert (status, '"products/mug"' in said) == (0, True)
    times, request_ids = zip(*shop.attempts, strict=True)
    assert all(later - earlier >= PAUSE_S for earlier, later in pairwise(times))
    assert len(set(request_ids)) == 1


async def test_it_comes_back_after_an_attempt_that_took_too_long(issuer: Issuer) -> None:
    shop = OpeningSoon(None)  # type: ignore[abstract]  # nobody calls the others

    status, _, complained = await ordered(shop, issuer)

    assert (status, complained) == (0, "attempt 1: DEADLINE_EXCEEDED\n")
    assert len({request_id for _, request_id in shop.attempts}) == 1


async def test_when_it_gives_up_it_says_how_to_go_on_with_the_same_request(issuer: Issuer) -> None:
    shop = OpeningSoon(ClosedForLong())  # type: ignore[abstract]  # nobody calls the others

    status, _, complained = await ordered(shop, issuer)

    [(_, request_id)] = shop.attempts
    assert status == 1
    assert complained.startswith("UNAVAILABLE/CLOSED: The shop is about to open.")
    assert complained.endswith(f"there may be an order; to find out, come again with --request-id {request_id}\n")
