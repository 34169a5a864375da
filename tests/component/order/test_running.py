"""The order service as a process: what happens to an order after it was answered, and what etcd can change."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, override

import grpc
import pytest
from google.type.money_pb2 import Money
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.order.v1 import events_pb2
from shop.order.v1 import order_pb2 as pb
from shop.order.v1.order_pb2_grpc import OrderServiceStub
from shop.product.v1 import product_pb2, product_pb2_grpc

from services.chassis.bus import Bus, Message
from services.chassis.database import Database
from services.chassis.etcd import Etcd
from services.order.contract import EVENT_TYPES
from services.order.events import STREAM
from tests.component.order.test_answering_calls import place
from tests.support.etcd import EtcdServer
from tests.support.issuer import Issuer
from tests.support.nats import NatsServer, running_nats
from tests.support.postgres import Postgres
from tests.support.serving import Metadata, ServiceProcess, bearing
from tests.support.waiting import eventually

CONFIG = "/shop/config/order"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Peers(product_pb2_grpc.ProductServiceServicer, inventory_pb2_grpc.InventoryServiceServicer):
    """In place of the mesh, and of whoever is behind it: everything costs 5 EUR, and is there."""

    def __init__(self) -> None:
        self.confirmed: list[str] = []

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


class Running:
    """A process, and all that it reaches."""

    def __init__(self, peers: Peers, orders: OrderServiceStub, database: Database) -> None:
        self.peers, self.orders, self.database = peers, orders, database


@pytest.fixture(scope="module")
async def running(
    postgres: Postgres, etcd: EtcdServer, nats: NatsServer, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("order")
    peers = Peers()  # type: ignore[abstract]  # what Order never calls is UNIMPLEMENTED
    url = await postgres.make("services.order")
    async with mesh_of(peers) as mesh:
        process = ServiceProcess(
            "order", folder, DATABASE_URL=url, ETCD=etcd.endpoint, ISSUER=issuer.url, NATS_URL=nats.url, MESH=mesh
        )
        process.start()
        database = await Database.connect(url)
        try:
            async with grpc.aio.insecure_channel(process.address) as channel:
                yield Running(peers, OrderServiceStub(channel), database)
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
