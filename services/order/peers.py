"""Product and Inventory over gRPC. What they refuse is known by its ErrorInfo; anything else is an outage."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from grpc.aio import AioRpcError, Channel
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.product.v1 import product_pb2, product_pb2_grpc

from services.chassis import logs
from services.chassis.errors import RpcRefusal, refusal_of, status_refusal
from services.chassis.messages import from_money, to_duration
from services.order.domain import (
    Cart,
    CatalogUnavailable,
    InventoryUnavailable,
    Offer,
    OutOfStock,
    ProductNotFound,
    ReservationNotFound,
    ReservationReleased,
)
from services.order.ports import NotConfirmed

log = logs.get()


class GrpcCatalog:
    """The Catalog port, answered by ProductService."""

    def __init__(self, channel: Channel) -> None:
        self._products = product_pb2_grpc.ProductServiceStub(channel)

    async def offers(self, products: Iterable[str], timeout_s: float | None = None) -> Mapping[str, Offer]:
        request = product_pb2.BatchGetProductsRequest(names=[f"products/{product}" for product in products])
        try:
            answer = await self._products.BatchGetProducts(request, timeout=timeout_s)
        except AioRpcError as error:
            refusal = refusal_of(error)
            if refusal and refusal.reason == ProductNotFound.reason:
                raise ProductNotFound(**refusal.metadata) from None
            _say("product", error)
            raise CatalogUnavailable from error
        return {
            product.name.removeprefix("products/"): Offer(
                product.display_name, from_money(product.price), product.archived
            )
            for product in answer.products
        }


class GrpcStock:
    """The Stock port, answered by InventoryService."""

    def __init__(self, channel: Channel) -> None:
        self._inventory = inventory_pb2_grpc.InventoryServiceStub(channel)

    async def reserve(self, order_id: UUID, cart: Cart, ttl: timedelta, timeout_s: float | None = None) -> None:
        request = inventory_pb2.ReserveStockRequest(
            reservation_id=str(order_id),
            reservation=inventory_pb2.Reservation(
                lines=[
                    inventory_pb2.Reservation.Line(product=f"products/{product}", quantity=quantity)
                    for product, quantity in cart.items
                ]
            ),
            ttl=to_duration(ttl),
        )
        try:
            await self._inventory.ReserveStock(request, timeout=timeout_s)
        except AioRpcError as error:
            raise _stock_refusal(refusal_of(error), error) from error

    async def confirm(self, order_ids: Sequence[UUID]) -> Mapping[UUID, NotConfirmed | None]:
        request = inventory_pb2.ConfirmReservationsRequest(names=[f"reservations/{id}" for id in order_ids])
        try:
            answer = await self._inventory.ConfirmReservations(request)
        except AioRpcError as error:
            raise _stock_refusal(refusal_of(error), error) from error
        return {
            UUID(result.name.removeprefix("reservations/")): _stock_refusal(status_refusal(result.error), result.error)
            if result.HasField("error")
            else None
            for result in answer.results
        }

    async def release(self, order_id: UUID) -> None:
        request = inventory_pb2.ReleaseReservationRequest(name=f"reservations/{order_id}")
        try:
            await self._inventory.ReleaseReservation(request)
        except AioRpcError as error:
            raise _stock_refusal(refusal_of(error), error) from error


def _stock_refusal(refusal: RpcRefusal | None, said: object) -> NotConfirmed:
    """Only an ErrorInfo says that there is no stock; a bare code may come from anything on the way."""
    match refusal:
        case RpcRefusal(reason=OutOfStock.reason):
            return OutOfStock(**refusal.metadata)
        case RpcRefusal(reason=ReservationNotFound.reason):
            return ReservationNotFound()
        case RpcRefusal(reason=ReservationReleased.reason):
            return ReservationReleased()
    _say("inventory", said)
    return InventoryUnavailable()


def _say(service: str, said: object) -> None:
    match said:
        case AioRpcError():
            log.warning("no use of a peer", peer=service, code=said.code().name, details=said.details())
        case _:
            log.warning("no use of a peer", peer=service, said=str(said))
