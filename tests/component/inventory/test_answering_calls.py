"""The inventory service as its callers see it: over gRPC, on PostgreSQL."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from shop.inventory.v1 import inventory_pb2 as pb
from shop.inventory.v1.inventory_pb2_grpc import InventoryServiceStub, add_InventoryServiceServicer_to_server

from services.chassis.errors import RpcRefusal, status_refusal
from services.chassis.messages import from_timestamp
from services.inventory.api import InventoryService
from tests.component.inventory.conftest import Keeper
from tests.support.issuer import Issuer, running_issuer
from tests.support.refused import Refused, outcome
from tests.support.serving import bearing, serving

HELD, CONFIRMED, RELEASED = pb.Reservation.STATE_HELD, pb.Reservation.STATE_CONFIRMED, pb.Reservation.STATE_RELEASED


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture
async def inventory(in_sql: Keeper, issuer: Issuer) -> AsyncIterator[InventoryServiceStub]:
    servicer = InventoryService(in_sql.warehouse, in_sql.stocks)
    async with serving(add_InventoryServiceServicer_to_server, servicer, issuer) as channel:
        yield InventoryServiceStub(channel)


@pytest.fixture(scope="module")
async def unreached(issuer: Issuer) -> AsyncIterator[InventoryServiceStub]:
    """A service whose callers are refused before it needs a database."""
    keeper = Keeper.in_memory()
    servicer = InventoryService(keeper.warehouse, keeper.stocks)
    async with serving(add_InventoryServiceServicer_to_server, servicer, issuer) as channel:
        yield InventoryServiceStub(channel)


class Callers:
    """The metadata of their calls."""

    def __init__(self, issuer: Issuer) -> None:
        self.order = bearing(issuer.token("service-account-order", client="order"))
        self.product = bearing(issuer.token("service-account-product", client="product"))
        self.ann = bearing(issuer.token("ann", ["customer"]))
        self.carol = bearing(issuer.token("carol", ["inventory-manager"]))
        self.dave = bearing(issuer.token("dave", ["inventory-manager"]))


@pytest.fixture
def callers(issuer: Issuer) -> Callers:
    return Callers(issuer)


def adjust(product: str, delta: int, request_id: str = "r1") -> pb.AdjustStockRequest:
    return pb.AdjustStockRequest(name=f"products/{product}/stock", delta=delta, request_id=request_id)


def reserve(id: str, ttl_s: int = 600, **lines: int) -> pb.ReserveStockRequest:
    return pb.ReserveStockRequest(
        reservation_id=id,
        reservation=pb.Reservation(
            lines=[
                pb.Reservation.Line(product=f"products/{product}", quantity=quantity)
                for product, quantity in lines.items()
            ]
        ),
        ttl=Duration(seconds=ttl_s),
    )


def release(id: str) -> pb.ReleaseReservationRequest:
    return pb.ReleaseReservationRequest(name=f"reservations/{id}")


def confirm(*ids: str) -> pb.ConfirmReservationsRequest:
    return pb.ConfirmReservationsRequest(names=[f"reservations/{id}" for id in ids])


async def test_anybody_sees_stock_that_a_manager_has_put_in(inventory: InventoryServiceStub, callers: Callers) -> None:
    adjusted = await inventory.AdjustStock(adjust("mug", 12), metadata=callers.carol)
    got = await inventory.GetStock(pb.GetStockRequest(name="products/mug/stock"))

    assert got.stock == adjusted.stock
    assert got.stock == pb.Stock(name="products/mug/stock", on_hand=12, reserved=0, available=12, etag='"1"')


async def test_a_reservation_from_hold_to_sale_and_back(
    in_sql: Keeper, inventory: InventoryServiceStub, callers: Callers
) -> None:
    await in_sql.stocked(mug=5, bowl=5)
    id, before = str(uuid4()), datetime.now(UTC)

    held = (await inventory.ReserveStock(reserve(id, mug=2, bowl=1), metadata=callers.order)).reservation
    [confirmed] = (await inventory.ConfirmReservations(confirm(id), metadata=callers.order)).results
    stock = (await inventory.GetStock(pb.GetStockRequest(name="products/mug/stock"))).stock
    released = (await inventory.ReleaseReservation(release(id), metadata=callers.order)).reservation

    assert (held.name, held.state) == (f"reservations/{id}", HELD)
    assert [(line.product, line.quantity) for line in held.lines] == [("products/bowl", 1), ("products/mug", 2)]
    assert timedelta(0) <= from_timestamp(held.expire_time) - before - timedelta(minutes=10) < timedelta(minutes=1)
    assert (confirmed.name, confirmed.reservation.state) == (held.name, CONFIRMED)
    assert (stock.on_hand, stock.reserved, stock.available) == (3, 0, 3)
    assert (released.state, released.lines) == (RELEASED, held.lines)


async def test_refusals_name_reason_and_facts(
    in_sql: Keeper, inventory: InventoryServiceStub, callers: Callers
) -> None:
    await in_sql.stocked(mug=5)
    id, gone, unknown = str(uuid4()), str(uuid4()), str(uuid4())
    await inventory.ReserveStock(reserve(id, mug=3), metadata=callers.order)
    await inventory.ReleaseReservation(release(gone), metadata=callers.order)
    failed, exists, missing = (
        grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.NOT_FOUND
    )  # fmt: skip

    async def order_hears(request: pb.ReserveStockRequest) -> Refused:
        return await outcome(inventory.ReserveStock(request, metadata=callers.order))

    assert await order_hears(reserve(unknown, mug=3)) == Refused(
        failed, "OUT_OF_STOCK", {"product": "products/mug", "requested": "3", "available": "2"}
    )
    assert await order_hears(reserve(id, mug=2)) == Refused(
        exists, "RESERVATION_DIFFERS", {"reservation": f"reservations/{id}"}
    )
    assert await order_hears(reserve(gone, mug=1)) == Refused(
        failed, "RESERVATION_RELEASED", {"reservation": f"reservations/{gone}"}
    )
    assert await outcome(inventory.GetStock(pb.GetStockRequest(name="products/fork/stock"))) == Refused(
        missing, "STOCK_NOT_FOUND", {"product": "products/fork"}
    )
    assert await outcome(inventory.AdjustStock(adjust("mug", -3), metadata=callers.carol)) == Refused(
        failed, "STOCK_BELOW_RESERVED", {"product": "products/mug", "on_hand": "5", "reserved": "3"}
    )
    results = (await inventory.ConfirmReservations(confirm(gone, id, unknown), metadata=callers.order)).results
    assert [result.name for result in results] == [f"reservations/{each}" for each in (gone, id, unknown)]
    assert results[1].reservation.state == CONFIRMED
    assert [status_refusal(results[number].error) for number in (0, 2)] == [
        RpcRefusal(
            failed,
            "RESERVATION_RELEASED",
            {"reservation": f"reservations/{gone}"},
            "This reservation was released for good.",
        ),
        RpcRefusal(
            missing,
            "RESERVATION_NOT_FOUND",
            {"reservation": f"reservations/{unknown}"},
            "There is no such reservation.",
        ),
    ]


async def test_a_request_id_belongs_to_its_caller(inventory: InventoryServiceStub, callers: Callers) -> None:
    await inventory.AdjustStock(adjust("mug", 5), metadata=callers.carol)
    again = await inventory.AdjustStock(adjust("mug", 5), metadata=callers.carol)
    by_dave = await inventory.AdjustStock(adjust("mug", 5), metadata=callers.dave)

    assert (again.stock.on_hand, by_dave.stock.on_hand) == (5, 10)
    assert await outcome(inventory.AdjustStock(adjust("mug", 6), metadata=callers.carol)) == Refused(
        grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED", {"request_id": "r1"}
    )


async def test_only_the_order_service_reserves_and_only_managers_adjust(
    unreached: InventoryServiceStub, callers: Callers
) -> None:
    id = str(uuid4())
    denied = grpc.StatusCode.PERMISSION_DENIED

    for metadata in (callers.ann, callers.carol, callers.product):
        assert (await outcome(unreached.ReserveStock(reserve(id, mug=1), metadata=metadata))).code == denied
        assert (await outcome(unreached.ConfirmReservations(confirm(id), metadata=metadata))).code == denied
        assert (await outcome(unreached.ReleaseReservation(release(id), metadata=metadata))).code == denied
    for metadata in (callers.ann, callers.order):
        assert (await outcome(unreached.AdjustStock(adjust("mug", 1), metadata=metadata))).code == denied
    assert (await outcome(unreached.AdjustStock(adjust("mug", 1)))).code == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "request_",
    [
        reserve("not-a-uuid", mug=1),
        reserve(str(uuid4()).upper(), mug=1),
        reserve(str(uuid4())),
        reserve(str(uuid4()), mug=0),
        reserve(str(uuid4()), mug=1000),
        reserve(str(uuid4()), Mug=1),
        reserve(str(uuid4()), ttl_s=0, mug=1),
        reserve(str(uuid4()), **{f"mug-{number}": 1 for number in range(101)}),
    ],
)
async def test_what_cannot_be_a_reservation_is_refused_before_it_reaches_the_stock(
    unreached: InventoryServiceStub, callers: Callers, request_: pb.ReserveStockRequest
) -> None:
    refusal = await outcome(unreached.ReserveStock(request_, metadata=callers.order))

    assert refusal == Refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "request_",
    [
        adjust("mug", 0),
        adjust("mug", 1_000_001),
        adjust("mug", 1, request_id=""),
        adjust("mug", 1, request_id="ü"),
        adjust("mug", 1, request_id="r" * 65),
        adjust("m", 1),
    ],
)
async def test_what_cannot_be_an_adjustment_is_refused(
    unreached: InventoryServiceStub, callers: Callers, request_: pb.AdjustStockRequest
) -> None:
    refusal = await outcome(unreached.AdjustStock(request_, metadata=callers.carol))

    assert refusal == Refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
