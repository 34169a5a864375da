"""The inventory service over gRPC: parse, one call, render."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import override
from uuid import UUID

from shop.inventory.v1 import inventory_pb2 as pb
from shop.inventory.v1.inventory_pb2_grpc import InventoryServiceServicer

from services.chassis import logs
from services.chassis.auth import caller
from services.chassis.errors import to_status
from services.chassis.messages import (
    PageSizes,
    decode_page_token,
    encode_page_token,
    from_duration,
    page_size,
    to_timestamp,
)
from services.chassis.metrics import Counter
from services.inventory.domain import Availability, Lines, Reservation, State, Stock
from services.inventory.use_cases import Stocktaking, Warehouse
from services.refusals import Refusal

_PRODUCT, _STOCK, _RESERVATION = "products/", "/stock", "reservations/"
_LIST = "ListStock"
_STATES: dict[State, pb.Reservation.State.ValueType] = {
    state: pb.Reservation.State.Value(f"STATE_{state.value}") for state in State if state is not State.NONE
}
_steps = Counter(
    "shop.inventory.reservations",
    "{reservation}",
    "Answers about reservations, repeats too: what was asked for, and the reason where it was refused.",
    "step",
    "shop.reason",
)


class InventoryService(InventoryServiceServicer):
    """What InventoryService promises in protos/shop/inventory/v1."""

    def __init__(
        self, warehouse: Warehouse, stocktaking: Stocktaking, page_sizes: Callable[[], PageSizes], error_domain: str
    ) -> None:
        self._warehouse, self._reservations = warehouse, warehouse.reservations
        self._stocktaking, self._stocks = stocktaking, stocktaking.stocks
        self._page_sizes, self._error_domain = page_sizes, error_domain

    @override
    async def GetStock(self, request: pb.GetStockRequest, _: object) -> pb.GetStockResponse:
        return pb.GetStockResponse(stock=_stock(await self._stocks.get(_product_of(request.name))))

    @override
    async def BatchGetStock(self, request: pb.BatchGetStockRequest, _: object) -> pb.BatchGetStockResponse:
        stock = await self._stocktaking.several(map(_product_of, request.names))
        return pb.BatchGetStockResponse(stock=map(_stock, stock))

    @override
    async def CheckStock(self, request: pb.CheckStockRequest, _: object) -> pb.CheckStockResponse:
        lines = await self._stocktaking.check([(_product_of(line.product), line.quantity) for line in request.lines])
        return pb.CheckStockResponse(lines=map(_line, lines))

    @override
    async def ListStock(self, request: pb.ListStockRequest, _: object) -> pb.ListStockResponse:
        place = decode_page_token(_LIST, request.page_token, _product_id)
        size = page_size(request.page_size, self._page_sizes())
        page, behind = await self._stocktaking.page(place[0] if place else None, size)
        token = encode_page_token(_LIST, (behind,) if behind else None)
        return pb.ListStockResponse(stock=map(_stock, page), next_page_token=token)

    @override
    async def AdjustStock(self, request: pb.AdjustStockRequest, _: object) -> pb.AdjustStockResponse:
        product = _product_of(request.name)
        stock = await self._stocks.adjust(product, request.delta, caller().subject, request.request_id)
        return pb.AdjustStockResponse(stock=_stock(stock))

    @override
    async def ReserveStock(self, request: pb.ReserveStockRequest, _: object) -> pb.ReserveStockResponse:
        lines = Lines.of((_product_of(line.product), line.quantity) for line in request.reservation.lines)
        id = _about(UUID(request.reservation_id))
        with _step("reserve"):
            reservation = await self._warehouse.reserve(id, lines, from_duration(request.ttl))
        return pb.ReserveStockResponse(reservation=_reservation(reservation))

    @override
    async def ConfirmReservations(
        self, request: pb.ConfirmReservationsRequest, _: object
    ) -> pb.ConfirmReservationsResponse:
        ids = [_id_of(name) for name in request.names]
        if len(ids) == 1:
            _about(ids[0])
        outcomes = await self._warehouse.confirm(ids)
        results = [self._result(name, outcome) for name, outcome in zip(request.names, outcomes, strict=True)]
        return pb.ConfirmReservationsResponse(results=results)

    @override
    async def ReleaseReservation(
        self, request: pb.ReleaseReservationRequest, _: object
    ) -> pb.ReleaseReservationResponse:
        with _step("release"):
            reservation = await self._warehouse.release(_about(_id_of(request.name)))
        return pb.ReleaseReservationResponse(reservation=_reservation(reservation))

    @override
    async def GetReservation(self, request: pb.GetReservationRequest, _: object) -> pb.GetReservationResponse:
        reservation = await self._reservations.get(_about(_id_of(request.name)))
        return pb.GetReservationResponse(reservation=_reservation(reservation))

    def _result(self, name: str, outcome: Reservation | Refusal) -> pb.ConfirmReservationsResponse.Result:
        _steps.add("confirm", outcome.reason if isinstance(outcome, Refusal) else "")
        if isinstance(outcome, Refusal):
            return pb.ConfirmReservationsResponse.Result(name=name, error=to_status(outcome, self._error_domain))
        return pb.ConfirmReservationsResponse.Result(name=name, reservation=_reservation(outcome))


@contextmanager
def _step(step: str) -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        _steps.add(step, refusal.reason)
        raise
    _steps.add(step, "")


def _product_of(name: str) -> str:
    return name.removeprefix(_PRODUCT).removesuffix(_STOCK)


def _product_id(text: str) -> str:
    """Of a page token. Raises ValueError for what PostgreSQL could not take as text."""
    if not re.fullmatch(r"[a-z0-9-]+", text):
        raise ValueError(text)
    return text


def _id_of(name: str) -> UUID:
    return UUID(name.removeprefix(_RESERVATION))


def _about(id: UUID) -> UUID:
    """Lines and spans of this call tell the order, whose id the reservation has."""
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


def _line(line: Availability) -> pb.CheckStockResponse.Line:
    return pb.CheckStockResponse.Line(
        product=f"{_PRODUCT}{line.product}",
        quantity=line.quantity,
        available=line.available,
        in_stock=line.in_stock,
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
