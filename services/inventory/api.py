"""The inventory service over gRPC: parse, one call, render."""

from typing import override
from uuid import UUID

from shop.inventory.v1 import inventory_pb2 as pb
from shop.inventory.v1.inventory_pb2_grpc import InventoryServiceServicer

from services.chassis import logs
from services.chassis.auth import caller
from services.chassis.errors import to_status
from services.chassis.messages import from_duration, to_timestamp
from services.inventory.domain import Lines, Reservation, State, Stock
from services.inventory.ports import Stocks
from services.inventory.use_cases import Warehouse
from services.refusals import Refusal

ERROR_DOMAIN = "shop"
_PRODUCT, _STOCK, _RESERVATION = "products/", "/stock", "reservations/"
_STATES: dict[State, pb.Reservation.State.ValueType] = {
    state: pb.Reservation.State.Value(f"STATE_{state.value}") for state in State if state is not State.NONE
}


class InventoryService(InventoryServiceServicer):
    """What InventoryService promises in protos/shop/inventory/v1."""

    def __init__(self, warehouse: Warehouse, stocks: Stocks) -> None:
        self._warehouse, self._stocks = warehouse, stocks

    @override
    async def GetStock(self, request: pb.GetStockRequest, _: object) -> pb.GetStockResponse:
        return pb.GetStockResponse(stock=_stock(await self._stocks.get(_product_of(request.name))))

    @override
    async def AdjustStock(self, request: pb.AdjustStockRequest, _: object) -> pb.AdjustStockResponse:
        product = _product_of(request.name)
        stock = await self._stocks.adjust(product, request.delta, caller().subject, request.request_id)
        return pb.AdjustStockResponse(stock=_stock(stock))

    @override
    async def ReserveStock(self, request: pb.ReserveStockRequest, _: object) -> pb.ReserveStockResponse:
        lines = Lines.of((line.product.removeprefix(_PRODUCT), line.quantity) for line in request.reservation.lines)
        id = _about(UUID(request.reservation_id))
        reservation = await self._warehouse.reserve(id, lines, from_duration(request.ttl))
        return pb.ReserveStockResponse(reservation=_reservation(reservation))

    @override
    async def ConfirmReservations(
        self, request: pb.ConfirmReservationsRequest, _: object
    ) -> pb.ConfirmReservationsResponse:
        outcomes = await self._warehouse.confirm([_id_of(name) for name in request.names])
        results = [_result(name, outcome) for name, outcome in zip(request.names, outcomes, strict=True)]
        return pb.ConfirmReservationsResponse(results=results)

    @override
    async def ReleaseReservation(
        self, request: pb.ReleaseReservationRequest, _: object
    ) -> pb.ReleaseReservationResponse:
        reservation = await self._warehouse.release(_about(_id_of(request.name)))
        return pb.ReleaseReservationResponse(reservation=_reservation(reservation))


def _product_of(name: str) -> str:
    return name.removeprefix(_PRODUCT).removesuffix(_STOCK)


def _id_of(name: str) -> UUID:
    return UUID(name.removeprefix(_RESERVATION))


def _about(id: UUID) -> UUID:
    """Log lines of this call tell the order, whose id the reservation has."""
    logs.bind_order(f"orders/{id}")
    return id


def _stock(stock: Stock) -> pb.Stock:
    return pb.Stock(
        name=f"{_PRODUCT}{stock.product}{_STOCK}",
        on_hand=stock.on_hand,
        reserved=stock.reserved,
        available=stock.available,
        etag=f'"{stock.version}"',
    )


def _reservation(reservation: Reservation) -> pb.Reservation:
    return pb.Reservation(
        name=f"{_RESERVATION}{reservation.id}",
        lines=[
            pb.Reservation.Line(product=f"{_PRODUCT}{product}", quantity=quantity)
            for product, quantity in reservation.lines.items
        ],
        state=_STATES[reservation.state],
        expire_time=to_timestamp(reservation.expire_time) if reservation.expire_time else None,
    )


def _result(name: str, outcome: Reservation | Refusal) -> pb.ConfirmReservationsResponse.Result:
    if isinstance(outcome, Refusal):
        return pb.ConfirmReservationsResponse.Result(name=name, error=to_status(outcome, ERROR_DOMAIN))
    return pb.ConfirmReservationsResponse.Result(name=name, reservation=_reservation(outcome))
