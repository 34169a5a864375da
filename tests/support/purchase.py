"""A customer who buys, and asks again under the same request_id until there is an answer, as the example does."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import grpc
from shop.order.v1 import order_pb2

from services.order.domain import Cart, order_id
from tests.support.bare_shop import BareShop, order_of
from tests.support.refused import refused

ATTEMPT_S = 5.0
PATIENCE_S = 300.0
"""For an answer. In a storm on a loaded machine all that an answer needs may not be up together for a minute."""
PAUSE_S = 0.2
UNANSWERED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
"""What examples/place_order.py asks again after. Anything else is an answer."""


@dataclass(slots=True)
class Purchase:
    """One piece of a product."""

    shop: BareShop
    product: str
    customer: str = "ann"
    request_id: str = field(default_factory=lambda: str(uuid4()))
    unanswered: Counter[str] = field(default_factory=Counter[str])
    """How often there was no answer, by the reason, or the code where nobody gave one."""
    took_s: float = 0.0
    """Until the slowest answer."""
    _under_way: asyncio.Task[None] | None = None

    @property
    def id(self) -> UUID:
        """Of the order that this becomes."""
        cart = Cart.of([(self.product.removeprefix("products/"), 1)])
        return order_id(self.customer, self.request_id, cart)

    def begin_to_place(self) -> None:
        """`answered` returns when it is done."""
        self._under_way = asyncio.create_task(self.place())

    def begin_to_cancel(self) -> None:
        """`answered` returns when it is done."""
        self._under_way = asyncio.create_task(self.cancel())

    async def answered(self) -> None:
        """Raises what `place` or `cancel` raised."""
        if self._under_way:
            await self._under_way

    async def place(self) -> None:
        """Raises AioRpcError for a refusal, TimeoutError when nobody answers in time."""
        request = order_of(self.product, self.request_id)
        answer = await self._answered(
            lambda: self.shop.orders.PlaceOrder(request, metadata=self.shop.bearer(self.customer), timeout=ATTEMPT_S)
        )
        order = UUID(answer.order.name.removeprefix("orders/"))
        self.shop.acknowledged[self.customer, self.request_id] = order

    async def cancel(self) -> None:
        """Raises as `place` does."""
        request = order_pb2.CancelOrderRequest(name=f"orders/{self.id}")
        await self._answered(
            lambda: self.shop.orders.CancelOrder(request, metadata=self.shop.bearer(self.customer), timeout=ATTEMPT_S)
        )

    async def _answered[T](self, ask: Callable[[], Awaitable[T]]) -> T:
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    answer = await ask()
                except grpc.aio.AioRpcError as error:
                    if error.code() not in UNANSWERED:
                        raise
                    told = refused(error)
                    self.unanswered[told.reason or told.code.name] += 1
                    await asyncio.sleep(PAUSE_S)
                else:
                    self.took_s = max(self.took_s, time.monotonic() - began)
                    return answer
