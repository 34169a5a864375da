"""The shop of the run, and what tests say to it.

What a test needs of the shop is what it takes:
- `edge`, `http`, `bearer`, `stocked`, `installation`: the doors of any shop;
- `mail`, `pages`: where mails and telemetry of it are read;
- `past`, `service_token`: its services past Envoy, and their own tokens;
- `shop`: a stack of our own, to be steered: changed, broken, looked at from behind.

The installation is a stack of our own, with real Keycloak, Envoy, stores and two Inventory instances, unless
SHOPMESH_TARGET names somebody's. There a test whose need is not met is skipped; the reason says what would meet it.

A plugin of tests/conftest.py, so that all folders share it.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack

import asyncpg
import grpc
import httpx
import pytest
from google.protobuf import json_format
from google.type import money_pb2
from mesh.v1 import registry_pb2
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.order.v1 import order_pb2
from shop.product.v1 import product_pb2, product_pb2_grpc

from services.cli.settings import SERVICES
from tests.support.etcd import listed
from tests.support.installation import STEERING, Installation
from tests.support.paced import CALLS_PER_S, Pace, paced_channel, paced_client
from tests.support.shop import Shop, running_shop

REACHED_WITHIN_S = 10.0

type Bearer = Callable[[str], tuple[tuple[str, str], ...]]
"""Call metadata of a demo user."""

type ServiceToken = Callable[[str], str]
"""The token of a service, for its own secret."""

type Past = Mapping[str, grpc.aio.Channel]
"""To an instance of each service, past Envoy."""

type Stocked = Callable[[int], Awaitable[str]]
"""Makes a product with so many pieces; gives its name."""


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    if Installation.given():
        pytest.skip(STEERING)
    with running_shop(tmp_path_factory.mktemp("shop"), "--instances", "inventory=2") as running:
        yield running


@pytest.fixture(scope="session")
def installation(request: pytest.FixtureRequest) -> Installation:
    return Installation.given() or Installation.of(request.getfixturevalue("shop"))


@pytest.fixture(scope="session")
def pace() -> Pace:
    """Of calls to the edge: a stack of our own takes them as they come."""
    return Pace(CALLS_PER_S if Installation.given() else float("inf"))


@pytest.fixture(scope="session")
async def edge(installation: Installation, pace: Pace) -> AsyncIterator[grpc.aio.Channel]:
    async with paced_channel(installation.edge, pace) as channel:
        yield channel


@pytest.fixture(scope="session")
async def http(installation: Installation, pace: Pace) -> AsyncIterator[httpx.AsyncClient]:
    """The REST door; absolute addresses go elsewhere."""
    async with paced_client(installation.edge, pace) as client:
        yield client


@pytest.fixture(scope="session")
def mail(installation: Installation) -> str:
    """URL of the API of the mailbox."""
    return installation.mail or pytest.skip("it reads mails: SHOPMESH_MAIL=host:port of Mailpit allows it")


@pytest.fixture(scope="session")
def pages(installation: Installation) -> str:
    """URL of the pages of its telemetry."""
    return installation.pages or pytest.skip(
        "it reads traces and lines: SHOPMESH_TELEMETRY=host:port of the pages allows it"
    )


@pytest.fixture
async def past(installation: Installation) -> AsyncIterator[Past]:
    """To an instance of each as they are now: other tests replace them."""
    if not installation.etcd:
        pytest.skip("it goes past Envoy: SHOPMESH_ETCD=host:port tells where the services are")
    async with AsyncExitStack() as stack:
        channels = dict[str, grpc.aio.Channel]()
        for service in SERVICES:
            endpoints = [
                json_format.Parse(kept.value, registry_pb2.Endpoint())
                for kept in listed(installation.etcd, f"/shop/endpoints/{service}/")
            ]
            address = next(each.address for each in endpoints if each.state == registry_pb2.Endpoint.STATE_READY)
            channels[service] = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            await _reached(channels[service], f"{service} at {address}")
        yield channels


async def _reached(channel: grpc.aio.Channel, whom: str) -> None:
    try:
        await asyncio.wait_for(channel.channel_ready(), REACHED_WITHIN_S)
    except TimeoutError:
        pytest.skip(f"it goes past Envoy, and {whom} is not reached from here: run it in the network of the services")


@pytest.fixture(scope="session")
def bearer(installation: Installation) -> Bearer:
    def of(person: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {installation.token(person)}"),)

    return of


@pytest.fixture(scope="session")
def service_token(installation: Installation) -> ServiceToken:
    if not installation.secrets:
        pytest.skip("it calls as a service: SHOPMESH_SECRETS=folder with <service>/client-secret allows it")
    return installation.service_token


@pytest.fixture(scope="session")
async def stocked(edge: grpc.aio.Channel, bearer: Bearer) -> AsyncIterator[Stocked]:
    catalogue = product_pb2_grpc.ProductServiceStub(edge)
    warehouse = inventory_pb2_grpc.InventoryServiceStub(edge)
    made = list[str]()

    async def make(pieces: int) -> str:
        id = f"thing-{uuid.uuid4()}"
        product = product_pb2.Product(
            display_name=f"Thing {id[-4:]}", price=money_pb2.Money(currency_code="EUR", units=12, nanos=500_000_000)
        )
        made.append(f"products/{id}")
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

    yield make
    for name in made if Installation.given() else ():
        await catalogue.ArchiveProduct(
            product_pb2.ArchiveProductRequest(name=name), metadata=bearer("carol"), timeout=60
        )


def order_of(product: str, quantity: int = 1, request_id: str | None = None) -> order_pb2.PlaceOrderRequest:
    """A request for one product, under a request_id of its own unless one is given."""
    line = order_pb2.Order.Line(product=product, quantity=quantity)
    return order_pb2.PlaceOrderRequest(order=order_pb2.Order(lines=[line]), request_id=request_id or str(uuid.uuid4()))


async def stock_of(edge: grpc.aio.Channel, product: str) -> tuple[int, int]:
    """How many are on hand, and how many of them are promised."""
    request = inventory_pb2.GetStockRequest(name=f"{product}/stock")
    stock = (await inventory_pb2_grpc.InventoryServiceStub(edge).GetStock(request, timeout=60)).stock
    return stock.on_hand, stock.reserved


async def audit(shop: Shop, service: str, query: str, *values: object) -> list[asyncpg.Record]:
    """What a view audit_* says, read as the role `audit`."""
    connection = await asyncpg.connect(shop.database(service))
    try:
        return await connection.fetch(query, *values)
    finally:
        await connection.close()
