"""Orders and stock kept side by side, in memory and in PostgreSQL, with a settler and a look behind them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

from shop.order.v1 import events_pb2, order_pb2

from services.chassis.database import Database
from services.chassis.worker import Failed, Job
from services.order.contract import STATES
from services.order.domain import Event, Order
from services.order.ports import Orders
from services.order.store import SettlerJob, SqlOrders
from services.order.use_cases import Outcome, Settled, Settlement
from tests.component.inventory.conftest import Keeper
from tests.support.inventory import MemoryReservations
from tests.unit.order.fakes import ANN, NOON, MemoryOrders


@dataclass(frozen=True)
class Version:
    """One version of an order, as it is told."""

    number: int
    type: str | None
    order: order_pb2.Order


class Shop(Protocol):
    """Where orders and stock are kept, and a look behind them."""

    orders: Orders
    keeper: Keeper

    def settler(self, settle: Callable[[Sequence[Order]], Awaitable[Sequence[Settlement]]]) -> Job[Any, Outcome]: ...
    async def leases_end(self) -> None: ...
    async def holds_are_overdue(self) -> None: ...
    async def unsettled(self) -> int: ...
    async def all_orders(self) -> Sequence[Order]: ...
    async def versions(self) -> Mapping[str, Sequence[Version]]:
        """By the name of the order, in the order in which they are to be told."""
        ...


class MemoryShop:
    def __init__(self) -> None:
        self.orders: Orders = _MemoryOrdersWithHistory()
        self.keeper = Keeper.in_memory()
        self._settled: dict[UUID, int] = {}
        self._leased: set[UUID] = set()

    def settler(self, settle: Callable[[Sequence[Order]], Awaitable[Sequence[Settlement]]]) -> Job[Any, Outcome]:
        return _MemorySettler(self._orders, self._settled, self._leased, settle)

    async def leases_end(self) -> None:
        self._leased.clear()

    async def holds_are_overdue(self) -> None:
        reservations = self.keeper.reservations
        assert isinstance(reservations, MemoryReservations)
        for id, held in reservations.kept.items():
            reservations.kept[id] = replace(held, expire_time=NOON - timedelta(days=1000))

    async def unsettled(self) -> int:
        return sum(self._settled.get(order.id) != order.version for order in await self.all_orders())

    async def all_orders(self) -> Sequence[Order]:
        return self._orders.kept

    async def versions(self) -> Mapping[str, Sequence[Version]]:
        told: dict[str, list[Version]] = {}
        for order, event in self._orders.history:
            name = f"shop.order.v1.{type(event).__name__}" if event else None
            seen = order_pb2.Order(name=f"orders/{order.id}", state=STATES[order.state])
            told.setdefault(seen.name, []).append(Version(order.version, name, seen))
        return told

    @property
    def _orders(self) -> "_MemoryOrdersWithHistory":
        assert isinstance(self.orders, _MemoryOrdersWithHistory)
        return self.orders


class _MemoryOrdersWithHistory(MemoryOrders):
    def __init__(self) -> None:
        super().__init__()
        self.history: list[tuple[Order, Event | None]] = []

    @property
    def kept(self) -> list[Order]:
        return list(self._kept.values())

    async def add(self, order: Order, event: Event | None, request_id: str) -> Order:
        before = len(self._kept)
        added = await super().add(order, event, request_id)
        if len(self._kept) > before:
            self.history.append((order, event))
        return added

    async def change(self, event: Event) -> bool:
        changed = await super().change(event)
        if changed:
            self.history.append((event.order, event))
        return changed


@dataclass(frozen=True)
class _MemorySettler(Job[Any, Outcome]):
    orders: _MemoryOrdersWithHistory
    settled: dict[UUID, int]
    leased: set[UUID]
    settle_orders: Callable[[Sequence[Order]], Awaitable[Sequence[Settlement]]]
    name = "settler"

    async def claim(self, most: int) -> Sequence[Order]:
        due = [
            order
            for order in self.orders.kept
            if self.settled.get(order.id) != order.version and order.id not in self.leased
        ][:most]
        self.leased.update(order.id for order in due)
        return due

    async def act(self, items: Sequence[Order]) -> Sequence[Outcome | Failed]:
        outcomes = await self.settle_orders(items)
        return [Failed(str(outcome)) if isinstance(outcome, Exception) else outcome for outcome in outcomes]

    async def settle(self, outcomes: Sequence[tuple[Order, Outcome | Failed]]) -> None:
        for order, outcome in outcomes:
            match outcome:
                case Settled():
                    if order in self.orders.kept:
                        self.settled[order.id] = order.version
                case Failed():
                    pass
                case event:
                    if self.settled.get(order.id) != order.version:
                        await self.orders.change(event)
            self.leased.discard(order.id)


class SqlShop:
    def __init__(self, orders: Database, stock: Database) -> None:
        self._orders = orders
        self.orders: Orders = SqlOrders(orders, committed=lambda: None)
        self.keeper = Keeper.in_sql(stock)
        self._stock = stock

    async def emptied(self) -> "SqlShop":
        await self._orders.execute("truncate orders, order_events")
        await self._stock.execute("truncate stock, reservations, ledger, adjustments")
        return self

    def settler(self, settle: Callable[[Sequence[Order]], Awaitable[Sequence[Settlement]]]) -> Job[Any, Outcome]:
        return SettlerJob(self._orders, settle, committed=lambda: None)

    async def leases_end(self) -> None:
        await self._orders.execute("update orders set claimed_until = now() where settled_time is null")

    async def holds_are_overdue(self) -> None:
        await self._stock.execute("update reservations set expire_time = now() where state = 'HELD'")

    async def unsettled(self) -> int:
        count: int = await self._orders.fetchval("select count(*) from orders where settled_time is null")
        return count

    async def all_orders(self) -> Sequence[Order]:
        return await self.orders.newest(ANN.id, 1000, None)

    async def versions(self) -> Mapping[str, Sequence[Version]]:
        told: dict[str, list[Version]] = {}
        for row in await self._orders.fetch("select * from order_events order by order_id, version"):
            told.setdefault(f"orders/{row['order_id']}", []).append(
                Version(row["version"], row["type"], _told(row["type"], row["payload"]))
            )
        return told


def _told(type: str | None, payload: bytes) -> order_pb2.Order:
    if type is None:
        return order_pb2.Order.FromString(payload)
    event = getattr(events_pb2, type.rpartition(".")[2]).FromString(payload)
    order: order_pb2.Order = event.order
    return order
