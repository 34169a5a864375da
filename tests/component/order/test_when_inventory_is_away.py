"""What a customer hears while Inventory is away, in whichever way: over gRPC from the caller to Inventory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, override

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from shop.inventory.v1 import inventory_pb2
from shop.order.v1 import order_pb2 as pb
from shop.order.v1.config_pb2 import OrderConfig
from shop.order.v1.order_pb2_grpc import OrderServiceStub, add_OrderServiceServicer_to_server

from services.chassis.auth import ServiceToken
from services.chassis.client import channel
from services.chassis.database import Database
from services.chassis.interceptors import time_left
from services.chassis.settings import Settings
from services.order.api import OrderApi
from services.order.domain import Terms
from services.order.peers import GrpcStock
from services.order.store import SqlOrders
from services.order.use_cases import Ordering
from services.order.watching import Watching
from tests.component.order.test_answering_calls import detail, place
from tests.component.order.test_asking_the_others import SOLD_OUT, Peer, refusing, served_at
from tests.support.issuer import Issuer
from tests.support.ports import free_port
from tests.support.refused import Refused, outcome
from tests.support.serving import Metadata, bearing, serving
from tests.unit.order.fakes import PENDING_TERMS, TERMS, Catalogue

SOON = timedelta(seconds=0.2)
"""Inventory that hangs is given up after that."""


class BreakerOpen(Peer):
    """As Envoy refuses what is too much."""

    @override
    async def _say(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        context.set_trailing_metadata((("x-envoy-overloaded", "true"),))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "upstream connect error or disconnect/reset: overflow")

    ReserveStock = _say


HELD = inventory_pb2.ReserveStockResponse()
WAYS: dict[str, Callable[[], Peer | None]] = {
    "nobody listens": lambda: None,
    "it hangs": lambda: Peer.saying(HELD, silent=True),
    "the breaker is open": lambda: BreakerOpen.saying(HELD),
    "no instance is well": lambda: Peer.saying(grpc.StatusCode.UNAVAILABLE),
    "its database is away": lambda: Peer.saying(refusing(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")),
    "it has a fault": lambda: Peer.saying(refusing(grpc.StatusCode.INTERNAL, "INTERNAL")),
    "a bare code as of a refusal": lambda: Peer.saying(grpc.StatusCode.FAILED_PRECONDITION),
}


@pytest.fixture
def ann(issuer: Issuer) -> Metadata:
    return bearing(issuer.token("ann", ["customer"]))


@asynccontextmanager
async def order_desk(
    peer: Peer | None, terms: Terms, database: Database, issuer: Issuer
) -> AsyncIterator[OrderServiceStub]:
    async with AsyncExitStack() as held:
        address = await held.enter_async_context(served_at(peer)) if peer else f"127.0.0.1:{free_port()}"
        http = await held.enter_async_context(httpx.AsyncClient(trust_env=False))
        token = ServiceToken(Settings.read("order", {"SHOPMESH_ISSUER": issuer.url}), http)
        stock = GrpcStock(await held.enter_async_context(channel(address, "inventory", token, "shop", lambda: 60.0)))
        orders = SqlOrders(database, committed=lambda: None)
        desk = Ordering(orders, Catalogue(), stock, lambda: terms, lambda: datetime.now(UTC), time_left)
        api = OrderApi(desk, orders, Watching(database, orders), OrderConfig)
        yield OrderServiceStub(await held.enter_async_context(serving(add_OrderServiceServicer_to_server, api, issuer)))


@pytest.mark.parametrize("way", WAYS)
async def test_an_order_is_refused_as_an_outage_with_a_time_to_wait(
    database: Database, issuer: Issuer, ann: Metadata, way: str
) -> None:
    async with order_desk(WAYS[way](), replace(TERMS, reserve_timeout=SOON), database, issuer) as orders:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await orders.PlaceOrder(place(), metadata=ann)

    assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
    assert detail(refusal.value, error_details_pb2.ErrorInfo()).reason == "INVENTORY_UNAVAILABLE"
    assert detail(refusal.value, error_details_pb2.RetryInfo()).retry_delay.seconds == 1
    assert not await database.fetchval("select count(*) from orders")


@pytest.mark.parametrize("way", WAYS)
async def test_an_order_is_pending_where_operators_have_set_that(
    database: Database, issuer: Issuer, ann: Metadata, way: str
) -> None:
    async with order_desk(WAYS[way](), replace(PENDING_TERMS, reserve_timeout=SOON), database, issuer) as orders:
        pending = (await orders.PlaceOrder(place(), metadata=ann)).order
        assert (await orders.PlaceOrder(place(), metadata=ann)).order == pending

    assert (pending.state, pending.etag) == (pb.Order.STATE_PENDING_STOCK, '"1"')


async def test_fifty_calls_of_one_request_make_one_pending_order(
    database: Database, issuer: Issuer, ann: Metadata
) -> None:
    async with order_desk(None, PENDING_TERMS, database, issuer) as orders:
        answers = await asyncio.gather(*(orders.PlaceOrder(place(), metadata=ann) for _ in range(50)))

    assert all(answer == answers[0] for answer in answers)
    assert await database.fetchval("select count(*) from orders") == 1


@pytest.mark.parametrize("terms", [TERMS, PENDING_TERMS], ids=["refused", "pending"])
async def test_the_answer_is_in_time_for_a_caller_who_has_less_than_inventory_may_take(
    database: Database, issuer: Issuer, ann: Metadata, terms: Terms
) -> None:
    patient = replace(terms, reserve_timeout=timedelta(minutes=1))
    async with order_desk(Peer.saying(HELD, silent=True), patient, database, issuer) as orders:
        answer = await outcome(orders.PlaceOrder(place(), metadata=ann, timeout=1.5))

    refused = Refused(grpc.StatusCode.UNAVAILABLE, "INVENTORY_UNAVAILABLE")
    assert answer == (Refused(grpc.StatusCode.OK) if terms.accepts_pending else refused)


@pytest.mark.parametrize("terms", [TERMS, PENDING_TERMS], ids=["refused", "pending"])
async def test_only_inventory_itself_says_out_of_stock_and_then_nothing_is_pending(
    database: Database, issuer: Issuer, ann: Metadata, terms: Terms
) -> None:
    async with order_desk(Peer.saying(SOLD_OUT), terms, database, issuer) as orders:
        answer = await outcome(orders.PlaceOrder(place(), metadata=ann))

    facts = {"product": "products/mug", "requested": "2", "available": "1"}
    assert answer == Refused(grpc.StatusCode.FAILED_PRECONDITION, "OUT_OF_STOCK", facts)
    assert not await database.fetchval("select count(*) from orders")
