"""examples/place_order.py, where the shop asks it to come back."""

import time
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


class OpeningSoon(OrderServiceServicer):
    """Answers the third attempt."""

    def __init__(self) -> None:
        self.attempts: list[tuple[float, str]] = []

    @override
    async def PlaceOrder(self, request: order_pb2.PlaceOrderRequest, _: object) -> order_pb2.PlaceOrderResponse:
        self.attempts.append((time.monotonic(), request.request_id))
        if len(self.attempts) < 3:
            raise Closed
        return order_pb2.PlaceOrderResponse(order=request.order)


async def test_it_comes_back_with_the_same_request_after_the_time_that_the_refusal_gives(issuer: Issuer) -> None:
    shop = OpeningSoon()  # type: ignore[abstract]  # nobody calls the others
    async with serving_at(add_OrderServiceServicer_to_server, shop, issuer) as address:
        status, said, _ = await place_order(address, issuer.token("ann", ["customer"]), "products/mug=1")

    assert (status, '"products/mug"' in said) == (0, True)
    times, request_ids = zip(*shop.attempts, strict=True)
    assert all(later - earlier >= PAUSE_S for earlier, later in pairwise(times))
    assert len(set(request_ids)) == 1
