"""The inventory service as its callers see it: over gRPC, on PostgreSQL."""

from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from shop.inventory.v1 import inventory_pb2 as pb
from shop.inventory.v1.config_pb2 import InventoryConfig
from shop.inventory.v1.inventory_pb2_grpc import InventoryServiceStub, add_InventoryServiceServicer_to_server

from services.chassis.errors import RpcRefusal, status_refusal
from services.chassis.messages import encode_page_token, from_timestamp
from services.inventory.api import InventoryService
from services.inventory.domain import Lines
from tests.component.inventory.conftest import Keeper
from tests.support.issuer import Issuer, running_issuer
from tests.support.refused import Refused, outcome
from tests.support.serving import bearing, serving

PAGES = InventoryConfig(default_page_size=2, max_page_size=3)
HELD, CONFIRMED, RELEASED = pb.Reservation.STATE_HELD, pb.Reservation.STATE_CONFIRMED, pb.Reservation.STATE_RELEASED


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture
async def inventory(in_sql: Keeper, issuer: Issuer) -> AsyncIterator[InventoryServiceStub]:
    servicer = InventoryService(in_sql.warehouse, in_sql.stocktaking, lambda: PAGES, "shop")
    async with serving(add_InventoryServiceServicer_to_server, servicer, issuer) as channel:
        yield InventoryServiceStub(channel)


@pytest.fixture(scope="module")
async def unreached(issuer: Issuer) -> AsyncIterator[InventoryServiceStub]:
    """A service whose callers are refused before it needs a database."""
    keeper = Keeper.in_memory()
    servicer = InventoryService(keeper.warehouse, keeper.stocktaking, lambda: PAGES, "shop")
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


def products(stock: Iterable[pb.Stock]) -> list[str]:
    return [each.name.removeprefix("products/").removesuffix("/stock") for each in stock]


def check(*lines: tuple[str, int]) -> pb.CheckStockRequest:
    return pb.CheckStockRequest(
        lines=[
            pb.CheckStockRequest.Line(product=f"products/{product}", quantity=quantity) for product, quantity in lines
        ]
    )


def several(*products: str) -> pb.BatchGetStockRequest:
    return pb.BatchGetStockRequest(names=[f"products/{product}/stock" for product in products])


def reservation(id: str) -> pb.GetReservationRequest:
    return pb.GetReservationRequest(name=f"reservations/{id}")


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


async def test_the_stock_of_several_products_comes_in_the_order_of_first_mention(
    in_sql: Keeper, inventory: InventoryServiceStub
) -> None:
    await in_sql.stocked(bowl=1, mug=2)

    batch = await inventory.BatchGetStock(several("mug", "bowl", "mug"))

    assert [(stock.name, stock.on_hand) for stock in batch.stock] == [
        ("products/mug/stock", 2),
        ("products/bowl/stock", 1),
    ]


async def test_anybody_can_ask_whether_a_cart_could_be_had(
    in_sql: Keeper, inventory: InventoryServiceStub, callers: Callers
) -> None:
    await in_sql.stocked(mug=5, bowl=5)
    await inventory.ReserveStock(reserve(str(uuid4()), mug=2), metadata=callers.order)

    checked = (await inventory.CheckStock(check(("mug", 2), ("fork", 1), ("bowl", 5), ("mug", 2)))).lines

    assert [(line.product, line.quantity, line.available, line.in_stock) for line in checked] == [
        ("products/mug", 4, 3, False),
        ("products/fork", 1, 0, False),
        ("products/bowl", 5, 5, True),
    ]


async def test_pages_lead_through_all_stock(in_sql: Keeper, inventory: InventoryServiceStub, callers: Callers) -> None:
    await in_sql.stocked(mug=1, axe=1, fork=1, bowl=1, cup=1)

    first = await inventory.ListStock(pb.ListStockRequest(), metadata=callers.carol)
    rest = pb.ListStockRequest(page_size=100, page_token=first.next_page_token)
    second = await inventory.ListStock(rest, metadata=callers.carol)

    assert products(first.stock) == ["axe", "bowl"]
    assert products(second.stock) == ["cup", "fork", "mug"]
    assert second.next_page_token == ""


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        encode_page_token("another list", ["mug"]),
        encode_page_token("ListStock", ["mug", "mug"]),
        encode_page_token("ListStock", ["mug\0"]),
    ],
)
async def test_a_token_of_no_page_is_refused(unreached: InventoryServiceStub, callers: Callers, token: str) -> None:
    call = unreached.ListStock(pb.ListStockRequest(page_token=token), metadata=callers.carol)

    assert await outcome(call) == Refused(grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


async def test_the_order_service_sees_a_reservation_in_every_state(
    in_sql: Keeper, inventory: InventoryServiceStub, callers: Callers
) -> None:
    await in_sql.stocked(mug=5)
    lapsed, id, tombstone = str(uuid4()), str(uuid4()), str(uuid4())

    async def seen(id: str) -> pb.Reservation:
        return (await inventory.GetReservation(reservation(id), metadata=callers.order)).reservation

    await in_sql.warehouse.reserve(UUID(lapsed), Lines.of([("mug", 1)]), timedelta(0))
    await in_sql.warehouse.lapse_one()
    assert (await seen(lapsed)).state == pb.Reservation.STATE_EXPIRED
    held = (await inventory.ReserveStock(reserve(id, mug=1), metadata=callers.order)).reservation
    assert await seen(id) == held
    await inventory.ConfirmReservations(confirm(id), metadata=callers.order)
    assert (await seen(id)).state == CONFIRMED
    for released in (id, tombstone):
        await inventory.ReleaseReservation(release(released), metadata=callers.order)
    assert ((await seen(id)).state, len((await seen(id)).lines)) == (RELEASED, 1)
    assert await seen(tombstone) == pb.Reservation(name=f"reservations/{tombstone}", state=RELEASED)


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
    assert await outcome(inventory.BatchGetStock(several("mug", "spoon", "fork"))) == Refused(
        missing, "STOCK_NOT_FOUND", {"product": "products/spoon"}
    )
    assert await outcome(inventory.GetReservation(reservation(unknown), metadata=callers.order)) == Refused(
        missing, "RESERVATION_NOT_FOUND", {"reservation": f"reservations/{unknown}"}
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


async def test_a_repeated_adjustment_is_answered_with_the_stock_as_it_is_then(
    inventory: InventoryServiceStub, callers: Callers
) -> None:
    await inventory.AdjustStock(adjust("mug", 5), metadata=callers.carol)
    since = await inventory.AdjustStock(adjust("mug", 2, "r2"), metadata=callers.dave)

    assert await inventory.AdjustStock(adjust("mug", 5), metadata=callers.carol) == since


async def test_only_the_order_service_reserves_and_only_managers_adjust_and_list(
    unreached: InventoryServiceStub, callers: Callers
) -> None:
    id = str(uuid4())
    denied = grpc.StatusCode.PERMISSION_DENIED

    for metadata in (callers.ann, callers.carol, callers.product):
        assert (await outcome(unreached.ReserveStock(reserve(id, mug=1), metadata=metadata))).code == denied
        assert (await outcome(unreached.ConfirmReservations(confirm(id), metadata=metadata))).code == denied
        assert (await outcome(unreached.ReleaseReservation(release(id), metadata=metadata))).code == denied
        assert (await outcome(unreached.GetReservation(reservation(id), metadata=metadata))).code == denied
    for metadata in (callers.ann, callers.order):
        assert (await outcome(unreached.AdjustStock(adjust("mug", 1), metadata=metadata))).code == denied
        assert (await outcome(unreached.ListStock(pb.ListStockRequest(), metadata=metadata))).code == denied
    assert (await outcome(unreached.AdjustStock(adjust("mug", 1)))).code == grpc.StatusCode.UNAUTHENTICATED
    assert (await outcome(unreached.ListStock(pb.ListStockRequest()))).code == grpc.StatusCode.UNAUTHENTICATED


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


@pytest.mark.parametrize(
    "request_",
    [
        several(),
        several("m"),
        several(*["mug"] * 101),
        check(),
        check(("mug", 0)),
        check(("mug", 1000)),
        check(("Mug", 1)),
        check(*[("mug", 1)] * 101),
        pb.ListStockRequest(page_size=-1),
        reservation("not-a-uuid"),
    ],
)
async def test_what_cannot_be_a_question_about_stock_is_refused(
    unreached: InventoryServiceStub,
    callers: Callers,
    request_: pb.BatchGetStockRequest | pb.CheckStockRequest | pb.ListStockRequest | pb.GetReservationRequest,
) -> None:
    def asked() -> Awaitable[object]:
        match request_:
            case pb.BatchGetStockRequest():
                return unreached.BatchGetStock(request_)
            case pb.CheckStockRequest():
                return unreached.CheckStock(request_)
            case pb.ListStockRequest():
                return unreached.ListStock(request_, metadata=callers.carol)
            case pb.GetReservationRequest():
                return unreached.GetReservation(request_, metadata=callers.order)

    assert await outcome(asked()) == Refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
