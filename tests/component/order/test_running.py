"""The order service as a process: what happens to an order after it was answered, and what etcd can change."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, override
from uuid import uuid4

import grpc
import pytest
from google.type.money_pb2 import Money
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.order.v1 import events_pb2
from shop.order.v1 import order_pb2 as pb
from shop.order.v1.order_pb2_grpc import OrderServiceStub
from shop.product.v1 import product_pb2, product_pb2_grpc

from services.chassis.bus.connection import Bus
from services.chassis.bus.pulling import Message
from services.chassis.database import Database
from services.chassis.etcd import Etcd
from services.order.contract import EVENT_TYPES
from services.order.events import STREAM
from tests.component.order.test_answering_calls import place
from tests.support.etcd import EtcdServer
from tests.support.issuer import Issuer
from tests.support.nats import NatsServer, running_nats
from tests.support.otlp import Receiver, Span, receiving
from tests.support.postgres import Postgres
from tests.support.refused import outcome
from tests.support.serving import Metadata, ServiceProcess, bearing
from tests.support.waiting import eventually

CONFIG = "/shop/config/order"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Peers(product_pb2_grpc.ProductServiceServicer, inventory_pb2_grpc.InventoryServiceServicer):
    """In place of the mesh, and of whoever is behind it: everything costs 5 EUR, and is there."""

    def __init__(self) -> None:
        self.confirmed: list[str] = []
        self.inventory_away = False

    @override
    async def BatchGetProducts(
        self, request: product_pb2.BatchGetProductsRequest, context: object
    ) -> product_pb2.BatchGetProductsResponse:
        price = Money(currency_code="EUR", units=5)
        products = [product_pb2.Product(name=name, display_name=name, price=price) for name in request.names]
        return product_pb2.BatchGetProductsResponse(products=products)

    @override
    async def ReserveStock(
        self, request: inventory_pb2.ReserveStockRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> inventory_pb2.ReserveStockResponse:
        assert dict(context.invocation_metadata() or ())["authorization"]
        if self.inventory_away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")
        return inventory_pb2.ReserveStockResponse()

    @override
    async def ConfirmReservations(
        self, request: inventory_pb2.ConfirmReservationsRequest, context: object
    ) -> inventory_pb2.ConfirmReservationsResponse:
        self.confirmed += request.names
        result = inventory_pb2.ConfirmReservationsResponse.Result
        held = inventory_pb2.Reservation()
        return inventory_pb2.ConfirmReservationsResponse(
            results=[result(name=name, reservation=held) for name in request.names]
        )


@pytest.fixture(scope="module")
def nats() -> Iterator[NatsServer]:
    """The stream has one name: it shall not meet that of other tests."""
    with running_nats() as server:
        yield server


@asynccontextmanager
async def mesh_of(peers: Peers) -> AsyncIterator[str]:
    server = grpc.aio.server()
    product_pb2_grpc.add_ProductServiceServicer_to_server(peers, server)
    inventory_pb2_grpc.add_InventoryServiceServicer_to_server(peers, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@dataclass(frozen=True, slots=True)
class Running:
    """A process, and all that it reaches."""

    process: ServiceProcess
    environment: dict[str, str]
    peers: Peers
    orders: OrderServiceStub
    database: Database
    collector: Receiver


@pytest.fixture(scope="module")
async def running(
    postgres: Postgres, etcd: EtcdServer, nats: NatsServer, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("order")
    peers = Peers()  # type: ignore[abstract]  # what Order never calls is UNIMPLEMENTED
    url = await postgres.make("services.order")
    with receiving() as collector:
        async with mesh_of(peers) as mesh:
            environment = {
                "DATABASE_URL": url, "ETCD": etcd.endpoint, "ISSUER": issuer.url, "NATS_URL": nats.url, "MESH": mesh,
                "OTLP_ENDPOINT": collector.endpoint,
            }  # fmt: skip
            process = ServiceProcess("order", folder, INSTANCE="order-1", **environment)
            process.start()
            database = await Database.connect(url)
            try:
                async with grpc.aio.insecure_channel(process.address) as channel:
                    yield Running(process, environment, peers, OrderServiceStub(channel), database, collector)
            finally:
                await database.close()
                process.stop()


@pytest.fixture(scope="module")
def ann(issuer: Issuer) -> Metadata:
    return bearing(issuer.token("ann", ["customer"]))


async def test_an_order_is_told_to_everybody_and_its_hold_confirmed(
    running: Running, nats: NatsServer, ann: Metadata
) -> None:
    read: list[Message] = []

    async def handle(messages: Sequence[Message]) -> None:
        read.extend(messages)

    async def settled() -> bool:
        return bool(await running.database.fetchval("select settled_time from orders"))

    async def told() -> bool:
        return bool(read)

    placed = (await running.orders.PlaceOrder(place(), metadata=(*ann, ("traceparent", TRACE)))).order
    await eventually(settled, "the order is settled")
    bus = await Bus.connect(nats.url, "test")
    try:
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(bus.consume(STREAM, "reader", EVENT_TYPES, handle))
            await eventually(told, "the event is read")
            reading.cancel()
    finally:
        await bus.close()

    assert running.peers.confirmed == [placed.name.replace("orders", "reservations")]
    assert events_pb2.OrderPlaced.FromString(read[0].data).order == placed
    assert read[0].headers["traceparent"].split("-")[1] == TRACE.split("-")[1]


async def test_a_changed_page_size_holds_at_once(running: Running, etcd: EtcdServer, ann: Metadata) -> None:
    for number in range(2):
        await running.orders.PlaceOrder(place(f"r{number}"), metadata=ann)
    client = Etcd(etcd.endpoint)

    async def shows_one() -> bool:
        return len((await running.orders.ListOrders(pb.ListOrdersRequest(), metadata=ann)).orders) == 1

    try:
        await client.put(CONFIG, b'{"default_page_size": 1}')
        await eventually(shows_one, "a page holds one order")
    finally:
        await client.delete(CONFIG)
        await client.close()


async def test_what_becomes_of_an_order_while_inventory_is_away_is_set_while_it_is(
    running: Running, etcd: EtcdServer, ann: Metadata
) -> None:
    client = Etcd(etcd.endpoint)
    running.peers.inventory_away = True

    async def accepted() -> bool:
        answer = await outcome(running.orders.PlaceOrder(place("pending"), metadata=ann))
        assert answer.reason in ("", "INVENTORY_UNAVAILABLE")
        return answer.code == grpc.StatusCode.OK

    async def as_it_is_now() -> pb.Order:
        return (await running.orders.GetOrder(pb.GetOrderRequest(name=pending.name), metadata=ann)).order

    async def is_placed() -> bool:
        return (await as_it_is_now()).state == pb.Order.STATE_PLACED

    async def is_rejected() -> bool:
        return (await as_it_is_now()).state == pb.Order.STATE_REJECTED

    try:
        assert not await accepted()
        await client.put(CONFIG, b'{"inventory_away": "INVENTORY_AWAY_PENDING_STOCK"}')
        await eventually(accepted, "the order is accepted as pending")
        pending = (await running.orders.PlaceOrder(place("pending"), metadata=ann)).order
        assert pending.state == pb.Order.STATE_PENDING_STOCK
        running.peers.inventory_away = False
        await eventually(is_placed, "a pending order is placed when Inventory is back")

        running.peers.inventory_away = True
        pending = (await running.orders.PlaceOrder(place("bound"), metadata=ann)).order
        await client.put(CONFIG, b'{"pending_bound": "1s"}')
        await eventually(is_rejected, "a pending order is rejected past its bound")
        assert (await as_it_is_now()).state_reason == "INVENTORY_UNAVAILABLE"
        again = (await running.orders.PlaceOrder(place("bound"), metadata=ann)).order
        assert again.state == pb.Order.STATE_REJECTED, "the order that is there is the answer, as it is now"
    finally:
        running.peers.inventory_away = False
        await client.delete(CONFIG)
        await client.close()


async def test_an_order_has_one_trace_also_when_another_instance_tells_of_it(
    running: Running, nats: NatsServer, ann: Metadata, tmp_path: Path
) -> None:
    """The last one here: it ends the process that the others call."""
    trace_id, caller = uuid4().hex, uuid4().hex[:16]
    nats.stop()
    sent = (*ann, ("traceparent", f"00-{trace_id}-{caller}-01"))
    placed = (await running.orders.PlaceOrder(place("traced"), metadata=sent)).order

    async def settled_and_exported() -> bool:
        return {"settle", "shop.order.v1.OrderService/PlaceOrder"} <= {
            span.name for span in running.collector.trace(trace_id)
        }

    await eventually(settled_and_exported, "the first instance has done what it can without NATS")
    running.process.kill()
    nats.start()
    other = ServiceProcess("order", tmp_path, INSTANCE="order-2", **running.environment)
    other.start()
    try:

        async def told() -> list[Span]:
            spans = running.collector.trace(trace_id)
            return spans if any(span.kind == "PRODUCER" for span in spans) else []

        spans = await eventually(told, "the event is sent") or []
    finally:
        other.stop()

    (root,) = [span for span in spans if span.parent_id == caller]
    parents = {span.span_id: span for span in spans}
    tree = sorted(
        (parents[span.parent_id].name if span is not root else "", span.name, span.kind, span.instance)
        for span in spans
    )
    rpc, settle = root.name, "settle"
    assert tree == [
        ("", "shop.order.v1.OrderService/PlaceOrder", "SERVER", "order-1"),
        (settle, "shop.inventory.v1.InventoryService/ConfirmReservations", "CLIENT", "order-1"),
        (rpc, "insert orders insert order_events", "CLIENT", "order-1"),
        (rpc, "select orders", "CLIENT", "order-1"),
        (rpc, "send shop.order.v1.OrderPlaced", "PRODUCER", "order-2"),
        (rpc, "settle", "INTERNAL", "order-1"),
        (rpc, "shop.inventory.v1.InventoryService/ReserveStock", "CLIENT", "order-1"),
        (rpc, "shop.product.v1.ProductService/BatchGetProducts", "CLIENT", "order-1"),
    ]
    assert {span.attributes.get("shop.order") for span in spans} == {placed.name}
