"""A shop in which something has happened already, and its doors: for tests that ask the same at each.

A plugin of tests/conftest.py.
"""

import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.type.money_pb2 import Money
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.order.v1 import order_pb2, order_pb2_grpc
from shop.product.v1 import product_pb2, product_pb2_grpc

from tests.support.dead_letters import bury
from tests.support.doors import Doors, doors_of
from tests.support.installation import STEERING, Installation
from tests.support.limits import no_limits
from tests.support.shop import Shop
from tests.support.shop_fixtures import Bearer, Stocked, order_of
from tests.support.waiting import eventually

MUG = {"display_name": "Mug", "price": {"currency_code": "EUR", "units": 12}}


@dataclass(frozen=True, slots=True)
class World:
    """What the shop holds before anybody knocks. `{thing}` in a case is `names["thing"]`."""

    names: Mapping[str, str]
    missing: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names of what it does not hold, and why."""

    def told(self, value: Any) -> Any:
        """`value` with all names filled in. A test that needs one that is missing is skipped."""
        match value:
            case str():
                for name in self.missing.keys() & {name for _, name, _, _ in Formatter().parse(value)}:
                    pytest.skip(self.missing[name])
                return value.format_map(self.names)
            case dict():
                return {key: self.told(each) for key, each in value.items()}
            case list():
                return [self.told(each) for each in value]
        return value


@pytest.fixture(scope="session")
async def world(
    request: pytest.FixtureRequest, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> AsyncIterator[World]:
    catalog, orders = product_pb2_grpc.ProductServiceStub(edge), order_pb2_grpc.OrderServiceStub(edge)
    ann, carol = bearer("ann"), bearer("carol")
    thing, bare, gone, edited, dollar = [await stocked(pieces) for pieces in (20, 0, 1, 0, 0)]
    await catalog.ArchiveProduct(product_pb2.ArchiveProductRequest(name=gone), metadata=carol, timeout=60)
    in_dollars = product_pb2.Product(name=dollar, price=Money(currency_code="USD", units=7))
    await catalog.UpdateProduct(product_pb2.UpdateProductRequest(product=in_dollars), metadata=carol, timeout=60)
    used, order = str(uuid.uuid4()), order_of(thing)
    product = json_format.ParseDict(MUG, product_pb2.Product())
    await catalog.CreateProduct(
        product_pb2.CreateProductRequest(product_id=f"mug-{used}", product=product, request_id=used),
        metadata=carol, timeout=60,
    )  # fmt: skip
    placed = [await orders.PlaceOrder(each, metadata=ann, timeout=60) for each in (order, order_of(thing))]
    cancelled = await orders.CancelOrder(
        order_pb2.CancelOrderRequest(name=placed[1].order.name), metadata=ann, timeout=60
    )
    products = await catalog.ListProducts(product_pb2.ListProductsRequest(page_size=1), timeout=60)
    newest = await orders.ListOrders(order_pb2.ListOrdersRequest(page_size=1), metadata=ann, timeout=60)
    await settled(edge, thing, 19)
    (_, left), (_, right) = sorted([(thing, "EUR"), (dollar, "USD")])
    names = {
        "thing": thing, "bare": bare, "gone": gone, "edited": edited, "dollar": dollar,
        "nobodys": f"products/nobodys-{used[:8]}",
        "left": left, "right": right,
        "used": used, "stocked": thing.removeprefix("products/"), "mug": f"products/mug-{used}",
        "order": placed[0].order.name, "ordered": order.request_id, "cancelled": cancelled.order.name,
        "of_products": products.next_page_token, "of_orders": newest.next_page_token,
    }  # fmt: skip
    if Installation.given():
        yield World(names, {
            "held": "it needs a piece that is promised for an hour: " + STEERING,
            **dict.fromkeys(("dead", "redriven", "discarded"), "it needs events that nobody understands: " + STEERING),
        })  # fmt: skip
        mug = product_pb2.ArchiveProductRequest(name=f"products/mug-{used}")
        await catalog.ArchiveProduct(mug, metadata=carol, timeout=60)
        return
    shop: Shop = request.getfixturevalue("shop")
    held = await stocked(1)
    await hold(shop, held)
    dead, redriven, discarded = await bury(shop, "OPEN", "REDRIVEN", "DISCARDED")
    yield World(names | {"held": held, "dead": dead, "redriven": redriven, "discarded": discarded})


async def settled(edge: grpc.aio.Channel, product: str, pieces: int) -> None:
    """Returns when so many are left: behind an answer, orders take their pieces and give them back."""
    warehouse = inventory_pb2_grpc.InventoryServiceStub(edge)

    async def left() -> bool:
        answer = await warehouse.GetStock(inventory_pb2.GetStockRequest(name=f"{product}/stock"), timeout=60)
        return bool(answer.stock.on_hand == answer.stock.available == pieces)

    await eventually(left, f"{pieces} of {product} are left")


async def hold(shop: Shop, product: str) -> None:
    """Promises one piece, as Order does."""
    line = inventory_pb2.Reservation.Line(product=product, quantity=1)
    request = inventory_pb2.ReserveStockRequest(
        reservation_id=str(uuid.uuid4()),
        reservation=inventory_pb2.Reservation(lines=[line]),
        ttl=Duration(seconds=3600),
    )
    token = (("authorization", f"Bearer {shop.service_token('order')}"),)
    async with grpc.aio.insecure_channel(shop.address("inventory")) as channel:
        await inventory_pb2_grpc.InventoryServiceStub(channel).ReserveStock(request, metadata=token, timeout=60)


@pytest.fixture(scope="module")
async def doors(
    request: pytest.FixtureRequest, edge: grpc.aio.Channel, http: httpx.AsyncClient
) -> AsyncIterator[Doors]:
    """Of an edge that counts no calls; of somebody's installation as they are."""
    if Installation.given():
        yield doors_of(edge, http)
        return
    async with no_limits(request.getfixturevalue("shop")):
        yield doors_of(edge, http)


def line(product: str, quantity: int = 1) -> dict[str, object]:
    return {"product": product, "quantity": quantity}


def cart(*lines: object, request_id: str = "three-doors") -> dict[str, object]:
    return {"order": {"lines": lines and list(lines)}, "request_id": request_id}


def new_product(product_id: str, request_id: str, **changed: object) -> dict[str, object]:
    return {"product_id": product_id, "product": MUG | changed, "request_id": request_id}
