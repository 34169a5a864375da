"""The order service as its callers see it: over gRPC, on PostgreSQL; Product and Inventory are faked."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from google.type.money_pb2 import Money
from grpc_status import rpc_status
from shop.order.v1 import order_pb2 as pb
from shop.order.v1.config_pb2 import OrderConfig
from shop.order.v1.order_pb2_grpc import OrderServiceStub, add_OrderServiceServicer_to_server

from services.chassis.database import Database
from services.chassis.interceptors import time_left
from services.chassis.messages import encode_page_token
from services.chassis.server import Add
from services.order.api import OrderApi
from services.order.domain import InventoryUnavailable, Offer, OrderRejected
from services.order.store import SqlOrders
from services.order.use_cases import Ordering
from services.order.watching import Watching
from tests.support.issuer import Issuer
from tests.support.refused import Refused, outcome
from tests.support.serving import Metadata, bearing
from tests.unit.order.fakes import SHELF, TERMS, Catalogue, Warehouse

NAME = "orders/00000000-0000-4000-8000-00000000000a"
INVALID = Refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


@pytest.fixture
def stock() -> Warehouse:
    return Warehouse()


@pytest.fixture
def shelf() -> dict[str, Offer]:
    return dict(SHELF)


@pytest.fixture
def grpc_servicer(database: Database, stock: Warehouse, shelf: dict[str, Offer]) -> OrderApi:
    orders = SqlOrders(database, committed=lambda: None)
    ordering = Ordering(orders, Catalogue(shelf), stock, lambda: TERMS, lambda: datetime.now(UTC), time_left)
    return OrderApi(
        ordering, orders, Watching(database, orders), lambda: OrderConfig(default_page_size=2, max_page_size=3)
    )


@pytest.fixture
def grpc_add_to_server() -> Add[OrderApi]:
    return add_OrderServiceServicer_to_server


@pytest.fixture
def grpc_stub_cls() -> type[OrderServiceStub]:
    return OrderServiceStub


@pytest.fixture
def ann(issuer: Issuer) -> Metadata:
    return bearing(issuer.token("ann", ["customer"]))


@pytest.fixture
def bob(issuer: Issuer) -> Metadata:
    return bearing(issuer.token("bob", ["customer"]))


def place(request_id: str = "r1", **lines: int) -> pb.PlaceOrderRequest:
    wanted = (lines or {"mug": 2}).items()
    order = pb.Order(
        lines=[pb.Order.Line(product=f"products/{product}", quantity=quantity) for product, quantity in wanted]
    )
    return pb.PlaceOrderRequest(order=order, request_id=request_id)


async def test_an_order_is_answered_whole_and_found_again(grpc_stub: OrderServiceStub, ann: Metadata) -> None:
    placed = (await grpc_stub.PlaceOrder(place(teapot=1, mug=2), metadata=ann)).order

    assert placed.name.startswith("orders/")
    assert placed.customer == "customers/ann"
    assert placed.state == pb.Order.STATE_PLACED
    assert placed.etag == '"1"'
    assert list(placed.lines) == [
        pb.Order.Line(
            product="products/mug",
            display_name="Mug",
            quantity=2,
            unit_price=Money(currency_code="EUR", units=12, nanos=500_000_000),
        ),
        pb.Order.Line(
            product="products/teapot",
            display_name="Teapot",
            quantity=1,
            unit_price=Money(currency_code="EUR", units=39),
        ),
    ]
    assert placed.total == Money(currency_code="EUR", units=64)
    assert placed.create_time == placed.update_time
    assert (await grpc_stub.GetOrder(pb.GetOrderRequest(name=placed.name), metadata=ann)).order == placed
    assert list((await grpc_stub.ListOrders(pb.ListOrdersRequest(), metadata=ann)).orders) == [placed]


async def test_what_the_caller_says_of_names_prices_and_owner_is_not_read(
    grpc_stub: OrderServiceStub, ann: Metadata
) -> None:
    request = place()
    request.order.customer = "customers/bob"
    request.order.total.CopyFrom(Money(currency_code="EUR", units=0))
    request.order.lines[0].display_name = "Free mug"
    request.order.lines[0].unit_price.CopyFrom(Money(currency_code="EUR", units=0))

    placed = (await grpc_stub.PlaceOrder(request, metadata=ann)).order

    assert (placed.customer, placed.total.units) == ("customers/ann", 25)
    assert placed.lines[0].display_name == "Mug"


async def test_fifty_calls_of_one_request_place_one_order(grpc_stub: OrderServiceStub, ann: Metadata) -> None:
    answers = await asyncio.gather(*(grpc_stub.PlaceOrder(place(), metadata=ann) for _ in range(50)))

    assert all(answer == answers[0] for answer in answers)
    assert len((await grpc_stub.ListOrders(pb.ListOrdersRequest(), metadata=ann)).orders) == 1


async def test_a_request_id_that_placed_other_lines_is_refused_with_the_order_it_placed(
    grpc_stub: OrderServiceStub, ann: Metadata
) -> None:
    placed = (await grpc_stub.PlaceOrder(place(), metadata=ann)).order

    assert await outcome(grpc_stub.PlaceOrder(place(mug=3), metadata=ann)) == Refused(
        grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED", {"order": placed.name}
    )


async def test_out_of_stock_is_told_with_the_numbers(
    grpc_stub: OrderServiceStub, stock: Warehouse, ann: Metadata
) -> None:
    stock.short.add("mug")

    assert await outcome(grpc_stub.PlaceOrder(place(), metadata=ann)) == Refused(
        grpc.StatusCode.FAILED_PRECONDITION,
        "OUT_OF_STOCK",
        {"product": "products/mug", "requested": "2", "available": "0"},
    )


async def test_an_outage_is_told_as_one_and_when_to_come_again(
    grpc_stub: OrderServiceStub, stock: Warehouse, ann: Metadata
) -> None:
    stock.away = InventoryUnavailable()

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await grpc_stub.PlaceOrder(place(), metadata=ann)

    assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
    assert detail(refusal.value, error_details_pb2.ErrorInfo()).reason == "INVENTORY_UNAVAILABLE"
    assert detail(refusal.value, error_details_pb2.RetryInfo()).retry_delay.seconds == 1


def detail(error: grpc.aio.AioRpcError, detail: Any) -> Any:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # its stubs know sync calls only
    assert status
    assert any(packed.Unpack(detail) for packed in status.details)
    return detail


@pytest.mark.parametrize(
    ("request_id", "lines"),
    [
        ("r1", []),
        ("r1", [("products/mug", 0)]),
        ("r1", [("products/mug", 1000)]),
        ("r1", [("products/mug", 999), ("products/teapot", 1), ("products/mug", 1)]),
        ("r1", [("mug", 1)]),
        ("r1", [("products/mug", 1)] * 101),
        ("", [("products/mug", 1)]),
        ("r" * 65, [("products/mug", 1)]),
        ("r\n1", [("products/mug", 1)]),
    ],
    ids=str,
)
async def test_not_a_request(
    grpc_stub: OrderServiceStub, ann: Metadata, request_id: str, lines: list[tuple[str, int]]
) -> None:
    order = pb.Order(lines=[pb.Order.Line(product=product, quantity=quantity) for product, quantity in lines])
    request = pb.PlaceOrderRequest(order=order, request_id=request_id)

    assert await outcome(grpc_stub.PlaceOrder(request, metadata=ann)) == INVALID


async def test_a_sum_of_lines_that_is_too_large_is_named_by_its_field(
    grpc_stub: OrderServiceStub, ann: Metadata
) -> None:
    request = place(mug=999)
    request.order.lines.add(product="products/mug", quantity=1)

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await grpc_stub.PlaceOrder(request, metadata=ann)

    [violation] = detail(refusal.value, error_details_pb2.BadRequest()).field_violations
    assert violation.field == "order.lines[1].quantity"


async def test_who_has_no_address_cannot_order(grpc_stub: OrderServiceStub, issuer: Issuer) -> None:
    nobody = bearing(issuer.token("eve", ["customer"], email=""))

    assert await outcome(grpc_stub.PlaceOrder(place(), metadata=nobody)) == Refused(
        grpc.StatusCode.FAILED_PRECONDITION, "EMAIL_MISSING"
    )


async def test_an_unknown_product_is_named(grpc_stub: OrderServiceStub, ann: Metadata) -> None:
    assert await outcome(grpc_stub.PlaceOrder(place(unicorn=1), metadata=ann)) == Refused(
        grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND", {"product": "products/unicorn"}
    )


async def test_what_is_not_sold_any_more_is_named_and_what_was_bought_before_stays(
    grpc_stub: OrderServiceStub, shelf: dict[str, Offer], ann: Metadata
) -> None:
    placed = (await grpc_stub.PlaceOrder(place(mug=2, teapot=1), metadata=ann)).order
    shelf["teapot"] = replace(shelf["teapot"], archived=True)

    assert await outcome(grpc_stub.PlaceOrder(place("r2", mug=2, teapot=1), metadata=ann)) == Refused(
        grpc.StatusCode.FAILED_PRECONDITION, "PRODUCT_ARCHIVED", {"product": "products/teapot"}
    )
    assert (await grpc_stub.PlaceOrder(place(mug=2, teapot=1), metadata=ann)).order == placed


async def test_with_too_little_time_nothing_is_begun(
    grpc_stub: OrderServiceStub, stock: Warehouse, ann: Metadata
) -> None:
    await grpc_stub.ListOrders(pb.ListOrdersRequest(), metadata=ann)  # Keys are fetched, connections are there.

    refused = await outcome(grpc_stub.PlaceOrder(place(), metadata=ann, timeout=0.45))

    assert refused == Refused(grpc.StatusCode.UNAVAILABLE, "DEADLINE_TOO_SHORT")
    assert not stock.held


async def test_nobody_sees_or_cancels_the_orders_of_others(
    grpc_stub: OrderServiceStub, ann: Metadata, bob: Metadata
) -> None:
    placed = (await grpc_stub.PlaceOrder(place(), metadata=ann)).order

    for call in (
        grpc_stub.GetOrder(pb.GetOrderRequest(name=placed.name), metadata=bob),
        grpc_stub.CancelOrder(pb.CancelOrderRequest(name=placed.name), metadata=bob),
        grpc_stub.CancelOrder(pb.CancelOrderRequest(name=placed.name, etag=placed.etag), metadata=bob),
        grpc_stub.CancelOrder(pb.CancelOrderRequest(name=placed.name, etag='"7"'), metadata=bob),
    ):
        assert await outcome(call) == Refused(grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND", {"order": placed.name})
    assert not (await grpc_stub.ListOrders(pb.ListOrdersRequest(), metadata=bob)).orders
    assert (await grpc_stub.GetOrder(pb.GetOrderRequest(name=placed.name), metadata=ann)).order == placed


async def test_a_cancelled_order_is_answered_whole_however_often(grpc_stub: OrderServiceStub, ann: Metadata) -> None:
    placed = (await grpc_stub.PlaceOrder(place(), metadata=ann)).order
    cancel = pb.CancelOrderRequest(name=placed.name, etag=placed.etag)

    cancelled = (await grpc_stub.CancelOrder(cancel, metadata=ann)).order
    again = (await grpc_stub.CancelOrder(cancel, metadata=ann)).order

    assert (cancelled.state, cancelled.etag) == (pb.Order.STATE_CANCELLED, '"2"')
    assert cancelled.update_time.ToMicroseconds() > placed.update_time.ToMicroseconds()
    assert (cancelled.name, cancelled.lines, cancelled.total) == (placed.name, placed.lines, placed.total)
    assert again == (await grpc_stub.GetOrder(pb.GetOrderRequest(name=placed.name), metadata=ann)).order == cancelled
    assert (await grpc_stub.PlaceOrder(place(), metadata=ann)).order == cancelled, "also for a retry of its request"


async def test_fifty_cancels_at_once_cancel_an_order_once(
    grpc_stub: OrderServiceStub, database: Database, ann: Metadata
) -> None:
    placed = (await grpc_stub.PlaceOrder(place(), metadata=ann)).order
    cancel = pb.CancelOrderRequest(name=placed.name, etag=placed.etag)

    answers = await asyncio.gather(*(grpc_stub.CancelOrder(cancel, metadata=ann) for _ in range(50)))

    assert all(answer == answers[0] for answer in answers)
    assert await database.fetchval("select count(*) from order_events") == 2


async def test_an_order_that_changed_is_not_cancelled(grpc_stub: OrderServiceStub, ann: Metadata) -> None:
    placed = (await grpc_stub.PlaceOrder(place(), metadata=ann)).order

    assert await outcome(
        grpc_stub.CancelOrder(pb.CancelOrderRequest(name=placed.name, etag='"2"'), metadata=ann)
    ) == Refused(grpc.StatusCode.ABORTED, "ETAG_MISMATCH", {"order": placed.name})


async def test_an_order_that_was_rejected_is_not_cancelled(
    grpc_stub: OrderServiceStub, database: Database, ann: Metadata
) -> None:
    placed = (await grpc_stub.PlaceOrder(place(), metadata=ann)).order
    kept = await SqlOrders(database, lambda: None).by_request("ann", "r1")
    assert kept
    await SqlOrders(database, lambda: None).change(OrderRejected(kept.reject("OUT_OF_STOCK", datetime.now(UTC))))

    assert await outcome(grpc_stub.CancelOrder(pb.CancelOrderRequest(name=placed.name), metadata=ann)) == Refused(
        grpc.StatusCode.FAILED_PRECONDITION, "ORDER_NOT_CANCELLABLE", {"order": placed.name, "state": "STATE_REJECTED"}
    )


@pytest.mark.parametrize(
    "request_",
    [pb.CancelOrderRequest(), pb.CancelOrderRequest(name="orders/1"), pb.CancelOrderRequest(name=NAME, etag="x" * 65)],
    ids=str,
)
async def test_not_a_cancel(grpc_stub: OrderServiceStub, ann: Metadata, request_: pb.CancelOrderRequest) -> None:
    assert await outcome(grpc_stub.CancelOrder(request_, metadata=ann)) == INVALID


async def test_pages_lead_through_all_orders_the_newest_first(grpc_stub: OrderServiceStub, ann: Metadata) -> None:
    names = [(await grpc_stub.PlaceOrder(place(f"r{number}"), metadata=ann)).order.name for number in range(5)]

    seen: list[str] = []
    request = pb.ListOrdersRequest(page_size=2)
    while True:
        page = await grpc_stub.ListOrders(request, metadata=ann)
        seen += [order.name for order in page.orders]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token

    assert seen == names[::-1]


@pytest.mark.parametrize(("asked", "size"), [(0, 2), (1, 1), (3, 3), (100, 3)])
async def test_pages_are_of_the_asked_the_default_or_the_largest_size(
    grpc_stub: OrderServiceStub, ann: Metadata, asked: int, size: int
) -> None:
    for number in range(4):
        await grpc_stub.PlaceOrder(place(f"r{number}"), metadata=ann)

    page = await grpc_stub.ListOrders(pb.ListOrdersRequest(page_size=asked), metadata=ann)

    assert len(page.orders) == size


async def test_a_page_token_is_good_for_its_list_only(
    grpc_stub: OrderServiceStub, ann: Metadata, bob: Metadata
) -> None:
    for number in range(2):
        await grpc_stub.PlaceOrder(place(f"r{number}"), metadata=ann)
    token = (await grpc_stub.ListOrders(pb.ListOrdersRequest(page_size=1), metadata=ann)).next_page_token

    forged = [
        encode_page_token("orders of ann", (time, "00000000-0000-4000-8000-00000000000a"))
        for time in ("yesterday", "2026-11-24T00:00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59")
    ]
    tokens = [(bob, token), *((ann, bad) for bad in ("rubbish", token[:-1] + "!", *forged))]
    for whose, bad in tokens:
        refused = await outcome(grpc_stub.ListOrders(pb.ListOrdersRequest(page_token=bad), metadata=whose))
        assert refused == Refused(grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


async def test_a_page_cannot_be_smaller_than_nothing(grpc_stub: OrderServiceStub, ann: Metadata) -> None:
    assert await outcome(grpc_stub.ListOrders(pb.ListOrdersRequest(page_size=-1), metadata=ann)) == INVALID


CALLS: dict[str, Callable[[OrderServiceStub, Metadata], Any]] = {
    "PlaceOrder": lambda stub, metadata: stub.PlaceOrder(place(), metadata=metadata),
    "GetOrder": lambda stub, metadata: stub.GetOrder(pb.GetOrderRequest(name="orders/x"), metadata=metadata),
    "ListOrders": lambda stub, metadata: stub.ListOrders(pb.ListOrdersRequest(), metadata=metadata),
    "CancelOrder": lambda stub, metadata: stub.CancelOrder(pb.CancelOrderRequest(name="orders/x"), metadata=metadata),
}


@pytest.mark.parametrize("rpc", CALLS)
async def test_only_customers_come_in(grpc_stub: OrderServiceStub, issuer: Issuer, rpc: str) -> None:
    carol = bearing(issuer.token("carol", ["catalog-manager", "inventory-manager"]))

    assert await outcome(CALLS[rpc](grpc_stub, ())) == Refused(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    assert await outcome(CALLS[rpc](grpc_stub, carol)) == Refused(
        grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING", {"roles": "customer"}
    )
