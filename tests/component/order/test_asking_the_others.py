"""What Product and Inventory answer, over real gRPC: only an ErrorInfo names a refusal, all else is an outage."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Self
from uuid import UUID

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from google.type.money_pb2 import Money as MoneyMessage
from grpc_status import rpc_status
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.product.v1 import product_pb2, product_pb2_grpc

from services.chassis.errors import status
from services.money import Money
from services.order.domain import (
    CatalogUnavailable,
    InventoryUnavailable,
    Offer,
    OutOfStock,
    ProductNotFound,
    ReservationNotFound,
    ReservationReleased,
)
from services.order.peers import GrpcCatalog, GrpcStock
from services.refusals import Refusal
from tests.unit.order.fakes import MUG_AND_TEAPOT, MUGS

ID = UUID("00000000-0000-4000-8000-00000000000a")
OTHER = UUID("00000000-0000-4000-8000-00000000000b")
MINUTES = timedelta(minutes=10)


class Peer(product_pb2_grpc.ProductServiceServicer, inventory_pb2_grpc.InventoryServiceServicer):
    """Says what it is told to say, and remembers what it was asked."""

    def __init__(self, answer: Message | status_pb2.Status | grpc.StatusCode, *, silent: bool = False) -> None:
        self._answer, self._silent = answer, silent
        self.asked: list[Any] = []

    async def _say(self, request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        self.asked.append(request)
        if self._silent:
            await asyncio.Event().wait()
        match self._answer:
            case status_pb2.Status():
                await context.abort_with_status(rpc_status.to_status(self._answer))
            case grpc.StatusCode():
                await context.abort(self._answer, "said by something on the way")
        return self._answer

    BatchGetProducts = ReserveStock = ConfirmReservations = ReleaseReservation = _say

    @classmethod
    def saying(cls, answer: Message | status_pb2.Status | grpc.StatusCode, *, silent: bool = False) -> Self:
        """The rpcs that Order never calls are not here: they are UNIMPLEMENTED."""
        return cls(answer, silent=silent)


@asynccontextmanager
async def served(peer: Peer) -> AsyncIterator[grpc.aio.Channel]:
    async with served_at(peer) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel


@asynccontextmanager
async def served_at(peer: Peer) -> AsyncIterator[str]:
    server = grpc.aio.server()
    product_pb2_grpc.add_ProductServiceServicer_to_server(peer, server)
    inventory_pb2_grpc.add_InventoryServiceServicer_to_server(peer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def refusing(code: grpc.StatusCode, reason: str, **facts: str) -> status_pb2.Status:
    return status(code, "No.", error_details_pb2.ErrorInfo(reason=reason, domain="shop", metadata=facts))


@pytest.mark.parametrize("archived", [False, True])
async def test_offers_are_what_the_catalogue_answers(archived: bool) -> None:
    peer = Peer.saying(
        product_pb2.BatchGetProductsResponse(
            products=[
                product_pb2.Product(
                    name="products/mug",
                    display_name="Mug",
                    price=MoneyMessage(currency_code="EUR", units=12, nanos=500_000_000),
                    archived=archived,
                )
            ]
        )
    )

    async with served(peer) as channel:
        offers = await GrpcCatalog(channel).offers(["mug"])

    assert offers == {"mug": Offer("Mug", Money.of("EUR", 12, 500_000_000), archived)}
    assert list(peer.asked[0].names) == ["products/mug"]


@pytest.mark.parametrize(
    ("answer", "refusal", "facts"),
    [
        (
            refusing(grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND", product="products/mug"),
            ProductNotFound,
            {"product": "products/mug"},
        ),
        (grpc.StatusCode.NOT_FOUND, CatalogUnavailable, {}),
        (grpc.StatusCode.UNIMPLEMENTED, CatalogUnavailable, {}),
        (grpc.StatusCode.UNAVAILABLE, CatalogUnavailable, {}),
        (refusing(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"), CatalogUnavailable, {}),
        (refusing(grpc.StatusCode.INTERNAL, "INTERNAL"), CatalogUnavailable, {}),
    ],
)
async def test_no_offers(
    answer: status_pb2.Status | grpc.StatusCode, refusal: type[Refusal], facts: dict[str, str]
) -> None:
    async with served(Peer.saying(answer)) as channel:
        with pytest.raises(refusal) as refused:
            await GrpcCatalog(channel).offers(["mug"])

    assert refused.value.facts == facts


SOLD_OUT = refusing(
    grpc.StatusCode.FAILED_PRECONDITION, "OUT_OF_STOCK", product="products/mug", requested="2", available="1"
)


@pytest.mark.parametrize(
    ("answer", "refusal", "facts"),
    [
        (SOLD_OUT, OutOfStock, {"product": "products/mug", "requested": "2", "available": "1"}),
        (refusing(grpc.StatusCode.FAILED_PRECONDITION, "RESERVATION_RELEASED"), ReservationReleased, {}),
        (grpc.StatusCode.FAILED_PRECONDITION, InventoryUnavailable, {}),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, InventoryUnavailable, {}),
        (grpc.StatusCode.UNAVAILABLE, InventoryUnavailable, {}),
        (grpc.StatusCode.UNIMPLEMENTED, InventoryUnavailable, {}),
        (refusing(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"), InventoryUnavailable, {}),
        (refusing(grpc.StatusCode.ALREADY_EXISTS, "RESERVATION_DIFFERS"), InventoryUnavailable, {}),
    ],
)
async def test_no_hold(
    answer: status_pb2.Status | grpc.StatusCode, refusal: type[Refusal], facts: dict[str, str]
) -> None:
    async with served(Peer.saying(answer)) as channel:
        with pytest.raises(refusal) as refused:
            await GrpcStock(channel).reserve(ID, MUGS, MINUTES, 5.0)

    assert refused.value.facts == facts


async def test_a_hold_is_asked_for_under_the_id_of_the_order() -> None:
    peer = Peer.saying(inventory_pb2.ReserveStockResponse())

    async with served(peer) as channel:
        await GrpcStock(channel).reserve(ID, MUG_AND_TEAPOT, MINUTES, 5.0)

    [request] = peer.asked
    assert request.reservation_id == str(ID)
    assert request.ttl.seconds == 600
    assert [(line.product, line.quantity) for line in request.reservation.lines] == [
        ("products/mug", 1),
        ("products/teapot", 1),
    ]


async def test_an_answer_that_takes_too_long_is_an_outage() -> None:
    peer = Peer.saying(inventory_pb2.ReserveStockResponse(), silent=True)

    async with served(peer) as channel:
        with pytest.raises(InventoryUnavailable):
            await GrpcStock(channel).reserve(ID, MUGS, MINUTES, 0.05)


async def test_the_outcome_of_each_confirmation_is_its_own() -> None:
    results = [
        inventory_pb2.ConfirmReservationsResponse.Result(
            name=f"reservations/{ID}", reservation=inventory_pb2.Reservation()
        ),
        inventory_pb2.ConfirmReservationsResponse.Result(name=f"reservations/{OTHER}", error=SOLD_OUT),
    ]
    peer = Peer.saying(inventory_pb2.ConfirmReservationsResponse(results=results))

    async with served(peer) as channel:
        answers = await GrpcStock(channel).confirm([ID, OTHER])

    assert answers[ID] is None
    assert isinstance(answers[OTHER], OutOfStock)
    assert list(peer.asked[0].names) == [f"reservations/{ID}", f"reservations/{OTHER}"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (refusing(grpc.StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND"), ReservationNotFound),
        (refusing(grpc.StatusCode.FAILED_PRECONDITION, "RESERVATION_RELEASED"), ReservationReleased),
        (status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0]), InventoryUnavailable),
        (refusing(grpc.StatusCode.INTERNAL, "INTERNAL"), InventoryUnavailable),
    ],
)
async def test_not_confirmed(error: status_pb2.Status, outcome: type[Refusal]) -> None:
    result = inventory_pb2.ConfirmReservationsResponse.Result(name=f"reservations/{ID}", error=error)

    async with served(Peer.saying(inventory_pb2.ConfirmReservationsResponse(results=[result]))) as channel:
        answers = await GrpcStock(channel).confirm([ID])

    assert isinstance(answers[ID], outcome)


def ways(stock: GrpcStock) -> Sequence[Callable[[], Awaitable[object]]]:
    return (
        lambda: stock.reserve(ID, MUGS, MINUTES, 5.0),
        lambda: stock.confirm([ID]),
        lambda: stock.release(ID),
    )


@pytest.mark.parametrize("way", range(3), ids=["reserve", "confirm", "release"])
async def test_nobody_there_is_an_outage(way: int) -> None:
    async with served(Peer.saying(grpc.StatusCode.UNAVAILABLE)) as channel:
        with pytest.raises(InventoryUnavailable):
            await ways(GrpcStock(channel))[way]()
