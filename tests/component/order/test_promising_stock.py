"""One suite for every implementation of the Stock port: in memory, and the inventory service over gRPC."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import httpx
import pytest
from shop.inventory.v1.config_pb2 import InventoryConfig
from shop.inventory.v1.inventory_pb2_grpc import add_InventoryServiceServicer_to_server

from services.chassis.auth import ServiceToken
from services.chassis.client import channel
from services.chassis.settings import Settings
from services.inventory.api import InventoryService
from services.inventory.ports import Reservations, Stocks
from services.inventory.use_cases import Stocktaking
from services.inventory.use_cases import Warehouse as RealWarehouse
from services.order.domain import Cart, OutOfStock, ReservationNotFound, ReservationReleased
from services.order.peers import GrpcStock
from services.order.ports import Stock
from tests.support.inventory import MemoryReservations, MemoryStocks
from tests.support.issuer import Issuer
from tests.support.serving import serving_at
from tests.unit.order.fakes import MUG_AND_TEAPOT, MUGS, Warehouse

MINUTES = timedelta(minutes=10)
PLATES = Cart.of([("plate", 1)])


@asynccontextmanager
async def of_the_inventory_service(issuer: Issuer, reservations: Reservations, stocks: Stocks) -> AsyncIterator[Stock]:
    """Of mugs and teapots, a hundred each."""
    for product in ("mug", "teapot"):
        await stocks.adjust(product, 100, "carol", product)
    servicer = InventoryService(RealWarehouse(reservations), Stocktaking(stocks), InventoryConfig, "shop")
    settings = Settings.read("order", {"SHOPMESH_ISSUER": issuer.url})
    async with (
        serving_at(add_InventoryServiceServicer_to_server, servicer, issuer) as address,
        httpx.AsyncClient(trust_env=False) as http,
        channel(address, "inventory", ServiceToken(settings, http), "shop", lambda: 60.0) as to_inventory,
    ):
        yield GrpcStock(to_inventory)


@pytest.fixture(params=["memory", "grpc"])
async def stock(request: pytest.FixtureRequest, issuer: Issuer) -> AsyncIterator[Stock]:
    if request.param == "memory":
        yield Warehouse(short={"plate"})
        return
    stocks = MemoryStocks()
    async with of_the_inventory_service(issuer, MemoryReservations(stocks), stocks) as stock:
        yield stock


async def test_a_hold_becomes_a_sale_however_often_it_is_asked_for(stock: Stock) -> None:
    id = uuid4()

    await stock.reserve(id, MUG_AND_TEAPOT, MINUTES)
    await stock.reserve(id, MUG_AND_TEAPOT, MINUTES, 60.0)

    assert await stock.confirm([id]) == {id: None}
    assert await stock.confirm([id]) == {id: None}
    await stock.reserve(id, MUG_AND_TEAPOT, MINUTES)


async def test_what_is_not_there_is_not_promised(stock: Stock) -> None:
    with pytest.raises(OutOfStock) as refusal:
        await stock.reserve(uuid4(), PLATES, MINUTES)

    assert refusal.value.facts == {"product": "products/plate", "requested": "1", "available": "0"}


async def test_each_confirmation_has_its_own_outcome(stock: Stock) -> None:
    held, unknown, released = uuid4(), uuid4(), uuid4()
    await stock.reserve(held, MUGS, MINUTES)
    await stock.reserve(released, MUGS, MINUTES)
    await stock.release(released)

    answers = await stock.confirm([unknown, held, released])

    assert answers[held] is None
    assert isinstance(answers[unknown], ReservationNotFound)
    assert isinstance(answers[released], ReservationReleased)


async def test_what_was_given_back_is_never_held_again(stock: Stock) -> None:
    held, never_held = uuid4(), uuid4()
    await stock.reserve(held, MUGS, MINUTES)
    for id in (held, never_held, held):
        await stock.release(id)

    for id in (held, never_held):
        with pytest.raises(ReservationReleased):
            await stock.reserve(id, MUGS, MINUTES)
