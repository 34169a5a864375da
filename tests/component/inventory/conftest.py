"""Both keepers of stock: what a test says must hold for each."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Self
from uuid import UUID, uuid4

import pytest

from services.chassis.database import Database
from services.inventory.domain import Lines, Reservation, Shelf, State
from services.inventory.ports import Reservations, Stocks
from services.inventory.store import SqlReservations, SqlStocks
from services.inventory.use_cases import Stocktaking, Warehouse
from tests.support.inventory import MemoryReservations, MemoryStocks, require_consistent
from tests.support.postgres import Postgres


@dataclass
class Keeper:
    """One implementation of the ports, and a look behind them."""

    reservations: Reservations
    stocks: Stocks
    database: Database | None = None

    @classmethod
    def in_memory(cls) -> Self:
        stocks = MemoryStocks()
        return cls(MemoryReservations(stocks), stocks)

    @classmethod
    def in_sql(cls, database: Database) -> Self:
        return cls(SqlReservations(database), SqlStocks(database), database)

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(self.reservations)

    @property
    def stocktaking(self) -> Stocktaking:
        return Stocktaking(self.stocks)

    async def stocked(self, **pieces: int) -> None:
        for product, quantity in pieces.items():
            await self.stocks.adjust(product, quantity, "carol", str(uuid4()))

    async def counted(self, product: str) -> tuple[int, int]:
        stock = await self.stocks.get(product)
        return stock.on_hand, stock.reserved

    async def ledger(self) -> list[tuple[UUID | None, str, str, int, int]]:
        if isinstance(self.stocks, MemoryStocks):
            return self.stocks.ledger
        assert self.database
        rows = await self.database.fetch(
            "select reservation_id, product, kind, on_hand_delta, reserved_delta from audit_ledger order by id"
        )
        return [tuple(row) for row in rows]

    async def require_consistent(self) -> None:
        require_consistent(await self._shelf(), await self._kept(), await self.ledger())

    async def _shelf(self) -> Shelf:
        if isinstance(self.stocks, MemoryStocks):
            return self.stocks.shelf
        assert self.database
        rows = await self.database.fetch("select product from audit_stock")
        return {row["product"]: await self.stocks.get(row["product"]) for row in rows}

    async def _kept(self) -> list[Reservation]:
        if isinstance(self.reservations, MemoryReservations):
            return list(self.reservations.kept.values())
        assert self.database
        rows = await self.database.fetch(
            "select reservation_id, state, expire_time,"
            " array_agg(product) filter (where product is not null) as products,"
            " array_agg(quantity) filter (where product is not null) as quantities"
            " from audit_reservations left join audit_reservation_lines using (reservation_id) group by 1, 2, 3"
        )
        return [
            Reservation(
                row["reservation_id"],
                Lines.of(zip(row["products"] or (), row["quantities"] or (), strict=True)),
                State(row["state"]),
                row["expire_time"],
            )
            for row in rows
        ]


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[Database]:
    async with postgres.emptied("services.inventory") as database:
        yield database


@pytest.fixture
def in_sql(database: Database) -> Keeper:
    return Keeper.in_sql(database)


@pytest.fixture(params=["memory", "sql"])
def keeper(request: pytest.FixtureRequest) -> Keeper:
    makers: dict[str, Callable[[], Keeper]] = {
        "memory": Keeper.in_memory,
        "sql": lambda: Keeper.in_sql(request.getfixturevalue("database")),
    }
    return makers[request.param]()
