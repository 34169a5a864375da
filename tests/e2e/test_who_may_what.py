"""Nobody gets in without the right token, at the edge and past it; nobody sees another customer's orders."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.type import money_pb2
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.notification.v1 import notification_pb2, notification_pb2_grpc
from shop.order.v1 import order_pb2, order_pb2_grpc
from shop.product.v1 import product_pb2, product_pb2_grpc

from tests.support.refused import outcome
from tests.support.shop import Shop
from tests.support.shop_fixtures import Bearer, Stocked, order_of

type Metadata = tuple[tuple[str, str], ...]

OK = grpc.StatusCode.OK
DENIED = grpc.StatusCode.PERMISSION_DENIED
UNKNOWN_CALLER = grpc.StatusCode.UNAUTHENTICATED


def create(channel: grpc.aio.Channel, metadata: Metadata) -> Awaitable[Any]:
    product = product_pb2.Product(display_name="Cup", price=money_pb2.Money(currency_code="EUR", units=3))
    request = product_pb2.CreateProductRequest(product_id="rights-cup", product=product, request_id="rights-cup")
    return product_pb2_grpc.ProductServiceStub(channel).CreateProduct(request, metadata=metadata, timeout=60)


def adjust(channel: grpc.aio.Channel, metadata: Metadata) -> Awaitable[Any]:
    request = inventory_pb2.AdjustStockRequest(name="products/rights-cup/stock", delta=1, request_id="rights-cup")
    return inventory_pb2_grpc.InventoryServiceStub(channel).AdjustStock(request, metadata=metadata, timeout=60)


def list_orders(channel: grpc.aio.Channel, metadata: Metadata) -> Awaitable[Any]:
    return order_pb2_grpc.OrderServiceStub(channel).ListOrders(
        order_pb2.ListOrdersRequest(), metadata=metadata, timeout=60
    )


def list_notifications(channel: grpc.aio.Channel, metadata: Metadata) -> Awaitable[Any]:
    return notification_pb2_grpc.NotificationServiceStub(channel).ListNotifications(
        notification_pb2.ListNotificationsRequest(), metadata=metadata, timeout=60
    )


RIGHTS = [
    ("ann", create, DENIED), ("ann", adjust, DENIED), ("ann", list_orders, OK), ("ann", list_notifications, OK),
    ("bob", create, DENIED), ("bob", adjust, DENIED), ("bob", list_orders, OK), ("bob", list_notifications, OK),
    ("carol", create, OK), ("carol", adjust, OK), ("carol", list_orders, DENIED), ("carol", list_notifications, DENIED),
    ("oscar", create, DENIED), ("oscar", adjust, DENIED), ("oscar", list_orders, DENIED),
    ("oscar", list_notifications, DENIED),
]  # fmt: skip
SERVICE_OF = {create: "product", adjust: "inventory", list_orders: "order", list_notifications: "notification"}


@pytest.mark.parametrize(("user", "call", "code"), RIGHTS)
@pytest.mark.parametrize("door", ["edge", "past the edge"])
async def test_each_demo_user_may_what_the_contract_says(
    shop: Shop, bearer: Bearer, user: str, call: Callable[..., Awaitable[Any]], code: grpc.StatusCode, door: str
) -> None:
    address = shop.edge if door == "edge" else shop.address(SERVICE_OF[call])
    async with grpc.aio.insecure_channel(address) as channel:
        got = await outcome(call(channel, bearer(user)))

    assert got.code is code
    if door != "edge" and code is DENIED:
        assert got.reason == "ROLE_MISSING"


def forged(token: str) -> str:
    """The token of ann with another last character block in its signature."""
    head, body, signature = token.split(".")
    return f"{head}.{body}.{signature[:-8]}{'A' * 8}"


@pytest.mark.parametrize("what", ["none", "garbage", "forged"])
@pytest.mark.parametrize("door", ["edge", "past the edge"])
async def test_without_a_good_token_nobody_gets_in(shop: Shop, what: str, door: str) -> None:
    metadata: dict[str, Metadata] = {
        "none": (),
        "garbage": (("authorization", "Bearer garbage"),),
        "forged": (("authorization", f"Bearer {forged(shop.token('ann'))}"),),
    }
    address = shop.edge if door == "edge" else shop.address("order")
    async with grpc.aio.insecure_channel(address) as channel:
        got = await outcome(list_orders(channel, metadata[what]))

    assert got.code is UNKNOWN_CALLER
    if door != "edge":
        assert got.reason == "TOKEN_INVALID"


async def test_what_only_order_may_do_is_not_routed_at_the_edge_and_refused_past_it(
    shop: Shop, edge: grpc.aio.Channel, bearer: Bearer
) -> None:
    request = inventory_pb2.ReleaseReservationRequest(name="reservations/00000000-0000-0000-0000-000000000000")

    def release(channel: grpc.aio.Channel) -> Awaitable[Any]:
        return inventory_pb2_grpc.InventoryServiceStub(channel).ReleaseReservation(
            request, metadata=bearer("carol"), timeout=60
        )

    async with grpc.aio.insecure_channel(shop.address("inventory")) as past:
        assert (await outcome(release(edge))).code is grpc.StatusCode.UNIMPLEMENTED
        assert (await outcome(release(past))).code is DENIED


async def test_bob_does_not_see_what_ann_ordered(edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked) -> None:
    orders = order_pb2_grpc.OrderServiceStub(edge)
    placed = await orders.PlaceOrder(order_of(await stocked(1)), metadata=bearer("ann"), timeout=60)
    name = placed.order.name

    get = orders.GetOrder(order_pb2.GetOrderRequest(name=name), metadata=bearer("bob"), timeout=60)

    refusal = await outcome(get)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND")
    listed = await list_orders(edge, bearer("bob"))
    assert name not in [order.name for order in listed.orders]
