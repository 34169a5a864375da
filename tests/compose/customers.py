"""Customers who buy and read while something happens to the shop, and what they saw.

All know both Envoys. Each begins with the one that is its own, and goes to the other when a call had no answer, as a
client does that tries again like examples/place_order.py. A call that needed that is counted.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

import grpc
from google.type.money_pb2 import Money
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.notification.v1 import notification_pb2, notification_pb2_grpc
from shop.order.v1 import order_pb2, order_pb2_grpc
from shop.product.v1 import product_pb2, product_pb2_grpc

from services.cli.identity import access_token
from services.failure import Failure
from tests.compose.project import Project
from tests.support.refused import refused
from tests.support.steady import OPTIONS
from tests.support.waiting import eventually

BUYERS, READERS = 4, 4
PAUSE_S = 0.1
"""Between two calls of a customer: some 40 calls a second of each kind, below the limit of one user."""
ATTEMPT_S = 5.0
PATIENCE_S = 120.0
AGAIN_S = 0.2
TOKEN_S = 180.0
UNANSWERED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
USERS = ("ann", "bob")

type Metadata = tuple[tuple[str, str], ...]
type Ask[T] = Callable[[grpc.aio.Channel], Awaitable[T]]


@dataclass(slots=True)
class Seen:
    """By all customers together."""

    calls: int = 0
    unanswered: Counter[str] = field(default_factory=Counter[str])
    """Tries of idempotent calls, by what was said."""
    failed: list[str] = field(default_factory=list[str])
    """Calls that had no answer however often they were tried, or a wrong one."""
    acknowledged: dict[str, str] = field(default_factory=dict[str, str])
    """The order of each request_id that was answered with one."""
    slowest_s: float = 0.0


class Customers:
    """They share a connection to each Envoy."""

    def __init__(self, project: Project, channels: Sequence[grpc.aio.Channel], tokens: Sequence[str]) -> None:
        self._project, self._channels = project, channels
        self._bearers: list[Metadata] = [(("authorization", f"Bearer {token}"),) for token in tokens]
        self.seen = Seen()

    async def stocked(self, pieces: int = 1_000_000) -> str:
        """The name of a new product with so many pieces."""
        carol: Metadata = (("authorization", f"Bearer {await token_of(self._project, 'carol')}"),)
        id, channel = f"thing-{uuid4()}", self._channels[0]
        product = product_pb2.Product(display_name="Thing", price=Money(currency_code="EUR", units=5))
        await product_pb2_grpc.ProductServiceStub(channel).CreateProduct(
            product_pb2.CreateProductRequest(product_id=id, product=product, request_id=id), metadata=carol, timeout=60
        )
        await inventory_pb2_grpc.InventoryServiceStub(channel).AdjustStock(
            inventory_pb2.AdjustStockRequest(name=f"products/{id}/stock", delta=pieces, request_id=id),
            metadata=carol,
            timeout=60,
        )
        return f"products/{id}"

    async def buy(self, number: int, product: str, _turn: int) -> None:
        """One piece."""
        request_id, bearer = str(uuid4()), self._bearers[number % len(self._bearers)]
        line = order_pb2.Order.Line(product=product, quantity=1)
        request = order_pb2.PlaceOrderRequest(order=order_pb2.Order(lines=[line]), request_id=request_id)

        async def ask(channel: grpc.aio.Channel) -> str:
            stub = order_pb2_grpc.OrderServiceStub(channel)
            return (await stub.PlaceOrder(request, metadata=bearer, timeout=ATTEMPT_S)).order.name

        if name := await self._answered(number, ask):
            self.seen.acknowledged[request_id] = name.removeprefix("orders/")

    async def read(self, number: int, product: str, turn: int) -> None:
        """A product, its stock, the last orders or the last mails, in turn."""
        bearer = self._bearers[number % len(self._bearers)]

        async def ask(channel: grpc.aio.Channel) -> object:
            match turn % 4:
                case 0:
                    catalogue = product_pb2_grpc.ProductServiceStub(channel)
                    return await catalogue.GetProduct(product_pb2.GetProductRequest(name=product), timeout=ATTEMPT_S)
                case 1:
                    warehouse = inventory_pb2_grpc.InventoryServiceStub(channel)
                    stock = inventory_pb2.GetStockRequest(name=f"{product}/stock")
                    return await warehouse.GetStock(stock, timeout=ATTEMPT_S)
                case 2:
                    orders = order_pb2_grpc.OrderServiceStub(channel)
                    page = order_pb2.ListOrdersRequest(page_size=5)
                    return await orders.ListOrders(page, metadata=bearer, timeout=ATTEMPT_S)
                case _:
                    letters = notification_pb2_grpc.NotificationServiceStub(channel)
                    mails = notification_pb2.ListNotificationsRequest(page_size=5)
                    return await letters.ListNotifications(mails, metadata=bearer, timeout=ATTEMPT_S)

        await self._answered(number, ask)

    async def _answered[T](self, number: int, ask: Ask[T]) -> T | None:
        """The answer, or None for what was not answered at all, which is noted."""
        began, attempt = time.monotonic(), 0
        self.seen.calls += 1
        while True:
            try:
                answer = await ask(self._channels[(number + attempt) % len(self._channels)])
            except grpc.aio.AioRpcError as error:
                told = refused(error)
                if error.code() not in UNANSWERED or time.monotonic() - began > PATIENCE_S:
                    self.seen.failed.append(f"{told} {error.details()}")
                    return None
                self.seen.unanswered[f"{told.reason or told.code.name}"] += 1
                attempt += 1
                await asyncio.sleep(AGAIN_S)
            else:
                self.seen.slowest_s = max(self.seen.slowest_s, time.monotonic() - began)
                return answer


async def token_of(project: Project, user: str) -> str:
    """As soon as Keycloak gives one: it, or PostgreSQL, may just have been killed."""

    async def look() -> str:
        try:
            return await asyncio.to_thread(access_token, project.token_url, user)
        except Failure as error:
            raise AssertionError(str(error)) from None

    return await eventually(look, f"{user} has a token", TOKEN_S)


@asynccontextmanager
async def customers_of(project: Project) -> AsyncIterator[Customers]:
    tokens = [await token_of(project, user) for user in USERS]
    channels = [grpc.aio.insecure_channel(edge, OPTIONS) for edge in project.edges]
    try:
        yield Customers(project, channels, tokens)
    finally:
        for channel in channels:
            await channel.close()


@asynccontextmanager
async def busy(customers: Customers) -> AsyncIterator[tuple[Seen, str]]:
    """They buy this product and read as long as the body runs, then wait for the answer to their last call."""
    customers.seen = seen = Seen()
    product, over = await customers.stocked(), asyncio.Event()

    async def go_on(what: Callable[[int], Awaitable[None]]) -> None:
        turn = 0
        while not over.is_set():
            await what(turn)
            turn += 1
            await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as tasks:
        for number in range(BUYERS):
            tasks.create_task(go_on(partial(customers.buy, number, product)))
        for number in range(READERS):
            tasks.create_task(go_on(partial(customers.read, number, product)))
        try:
            await orders_come(seen)
            yield seen, product
            await orders_come(seen)
        finally:
            over.set()


async def orders_come(seen: Seen) -> None:
    """Returns when each buyer could have bought once more."""
    enough = len(seen.acknowledged) + 2 * BUYERS

    async def look() -> bool:
        return len(seen.acknowledged) >= enough

    await eventually(look, "orders are answered", PATIENCE_S)
