"""What a call leaves behind that its caller has given up: a hold that lapses, or the order that it was about to get."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, override

import asyncpg
import grpc
import httpx
import pytest
from shop.inventory.v1 import inventory_pb2
from shop.order.v1 import order_pb2 as pb
from shop.order.v1.config_pb2 import OrderConfig
from shop.order.v1.order_pb2_grpc import OrderServiceStub, add_OrderServiceServicer_to_server
from shop.product.v1 import product_pb2

from services.chassis.auth import ServiceToken
from services.chassis.client import channel
from services.chassis.database import Database
from services.chassis.interceptors import time_left
from services.chassis.settings import Settings
from services.order.api import OrderApi
from services.order.peers import GrpcCatalog, GrpcStock
from services.order.store import SqlOrders
from services.order.use_cases import Ordering
from services.order.watching import Watching
from tests.component.order.test_answering_calls import place
from tests.component.order.test_running import Peers, mesh_of
from tests.support.issuer import Issuer
from tests.support.serving import Metadata, bearing, serving
from tests.support.waiting import eventually
from tests.unit.order.fakes import TERMS


class HangingPeers(Peers):
    """One of their rpcs takes the call and does not answer; what it takes and what it gives up is counted."""

    def __init__(self, hangs: str) -> None:
        super().__init__()
        self._hangs = hangs
        self.taken = self.given_up = 0

    async def _hang(self, rpc: str) -> None:
        if rpc != self._hangs:
            return
        self.taken += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise

    @override
    async def BatchGetProducts(
        self, request: product_pb2.BatchGetProductsRequest, context: object
    ) -> product_pb2.BatchGetProductsResponse:
        await self._hang("BatchGetProducts")
        return await super().BatchGetProducts(request, context)

    @override
    async def ReserveStock(
        self, request: inventory_pb2.ReserveStockRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> inventory_pb2.ReserveStockResponse:
        await self._hang("ReserveStock")
        return await super().ReserveStock(request, context)


@asynccontextmanager
async def order_desk(peers: Peers, database: Database, issuer: Issuer) -> AsyncIterator[OrderServiceStub]:
    async with AsyncExitStack() as held:
        address = await held.enter_async_context(mesh_of(peers))
        http = await held.enter_async_context(httpx.AsyncClient(trust_env=False))
        token = ServiceToken(Settings.read("order", {"SHOPMESH_ISSUER": issuer.url}), http)
        product, inventory = [
            await held.enter_async_context(channel(address, name, token, "shop", lambda: 60.0))
            for name in ("product", "inventory")
        ]
        orders = SqlOrders(database, committed=lambda: None)
        desk = Ordering(
            orders, GrpcCatalog(product), GrpcStock(inventory), lambda: TERMS, lambda: datetime.now(UTC), time_left
        )
        api = OrderApi(desk, orders, Watching(database, orders), OrderConfig)
        stub = OrderServiceStub(
            await held.enter_async_context(serving(add_OrderServiceServicer_to_server, api, issuer))
        )
        yield stub


@pytest.fixture
def ann(issuer: Issuer) -> Metadata:
    return bearing(issuer.token("ann", ["customer"]))


def running() -> Counter[str]:
    """The tasks of this process by what they do. gRPC keeps as many waiting for calls, and not always the same ones."""
    return Counter(str(getattr(task.get_coro(), "__qualname__", task)) for task in asyncio.all_tasks())


async def no_tasks_but(before: Counter[str]) -> None:
    async def none() -> bool:
        left = running() - before
        assert not left, left
        return True

    await eventually(none, "no task is left of the call")


@pytest.mark.parametrize("hangs", ["BatchGetProducts", "ReserveStock"])
async def test_a_call_that_is_cancelled_ends_all_that_was_asked_for_it(
    database: Database, issuer: Issuer, ann: Metadata, hangs: str
) -> None:
    peers = HangingPeers(hangs)  # type: ignore[abstract]  # what Order never calls is UNIMPLEMENTED
    async with order_desk(peers, database, issuer) as orders:
        await orders.ListOrders(pb.ListOrdersRequest(), metadata=ann)  # Keys are fetched, connections are there.
        before = running()
        call = orders.PlaceOrder(place(), metadata=ann)

        async def taken() -> bool:
            return bool(peers.taken)

        async def given_up() -> bool:
            return peers.given_up == peers.taken

        await eventually(taken, "the call hangs")
        call.cancel()
        await eventually(given_up, "the others hear of it")
        await no_tasks_but(before)

    assert not await database.fetchval("select count(*) from orders")


@pytest.mark.parametrize("ends", ["cancelled", "expired"])
async def test_a_call_that_ends_while_its_order_is_kept_leaves_the_order_or_nothing_and_no_task(
    database: Database, issuer: Issuer, ann: Metadata, ends: str
) -> None:
    peers = Peers()  # type: ignore[abstract]  # what Order never calls is UNIMPLEMENTED
    async with order_desk(peers, database, issuer) as orders:
        await orders.PlaceOrder(place("r0"), metadata=ann)
        before = running()
        other = await asyncpg.connect(database._url)
        try:
            await other.execute("begin; lock table order_events in share mode")
            call = orders.PlaceOrder(place(), metadata=ann, timeout=60 if ends == "cancelled" else 1)

            async def waits() -> bool:
                return bool(await other.fetchval("select count(*) from pg_locks where not granted"))

            await eventually(waits, "the order is being kept")
            if ends == "cancelled":
                call.cancel()
                assert await call.code() == grpc.StatusCode.CANCELLED
            else:
                assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        finally:
            await other.close()
        await no_tasks_but(before)
        kept = await database.fetchval("select count(*) from orders where request_id = 'r1'")
        again = (await orders.PlaceOrder(place(), metadata=ann)).order

    assert kept == 1, "what had begun was carried through"
    assert again.etag == '"1"'
    assert await database.fetchval("select count(*) from orders where request_id = 'r1'") == 1
