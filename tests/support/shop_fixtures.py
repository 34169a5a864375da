"""One whole shop for the run: real Keycloak, Envoy, stores, two Inventory instances; and what tests say to it.

A plugin of tests/conftest.py, so that all folders share it.
"""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import asyncpg
import grpc
import httpx
import pytest
from google.type import money_pb2
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.order.v1 import order_pb2
from shop.product.v1 import product_pb2, product_pb2_grpc

from tests.support.shop import Shop, running_shop

type Bearer = Callable[[str], tuple[tuple[str, str], ...]]
"""Call metadata of a demo user."""

type Stocked = Callable[[int], Awaitable[str]]
"""Makes a product with so many pieces; gives its name."""


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with running_shop(tmp_path_factory.mktemp("shop"), "--instances", "inventory=2") as running:
        yield running


@pytest.fixture(scope="session")
async def edge(shop: Shop) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(shop.edge) as channel:
        yield channel


@pytest.fixture(scope="session")
async def http(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    """The REST door; absolute addresses go elsewhere."""
    async with httpx.AsyncClient(base_url=f"http://{shop.edge}", trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def bearer(shop: Shop) -> Bearer:
    tokens: dict[str, str] = {}

    def of(user: str) -> tuple[tuple[str, str], ...]:
        if user not in tokens:
            tokens[user] = shop.token(user)
        return (("authorization", f"Bearer {tokens[user]}"),)

    return of


@pytest.fixture(scope="session")
def stocked(edge: grpc.aio.Channel, bearer: Bearer) -> Stocked:
    catalogue = product_pb2_grpc.ProductServiceStub(edge)
    warehouse = inventory_pb2_grpc.InventoryServiceStub(edge)

    async def make(pieces: int) -> str:
        id = f"thing-{uuid.uuid4()}"
        product = product_pb2.Product(
            display_name=f"Thing {id[-4:]}", price=money_pb2.Money(currency_code="EUR", units=12, nanos=500_000_000)
        )
        await catalogue.CreateProduct(
            product_pb2.CreateProductRequest(product_id=id, product=product, request_id=id),
            metadata=bearer("carol"),
            timeout=60,
        )
        if pieces:
            await warehouse.AdjustStock(
                inventory_pb2.AdjustStockRequest(name=f"products/{id}/stock", delta=pieces, request_id=id),
                metadata=bearer("carol"),
                timeout=60,
            )
        return f"products/{id}"

    return make


def order_of(product: str, quantity: int = 1, request_id: str | None = None) -> order_pb2.PlaceOrderRequest:
    """A request for one product, under a request_id of its own unless one is given."""
    line = order_pb2.Order.Line(product=product, quantity=quantity)
    return order_pb2.PlaceOrderRequest(order=order_pb2.Order(lines=[line]), request_id=request_id or str(uuid.uuid4()))


async def audit(shop: Shop, service: str, query: str, *values: object) -> list[asyncpg.Record]:
    """What a view audit_* says, read as the role `audit`."""
    connection = await asyncpg.connect(shop.database(service))
    try:
        return await connection.fetch(query, *values)
    finally:
        await connection.close()
