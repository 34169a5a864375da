"""A network that does to a message what a test says, and the ports of Order over it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

from services.chassis.database import DatabaseUnavailable
from services.inventory import domain as inventory
from services.order.domain import (
    Cart,
    Event,
    InventoryUnavailable,
    Order,
    OutOfStock,
    ReservationNotFound,
    ReservationReleased,
)
from services.order.ports import NotConfirmed, Orders
from services.refusals import Refusal
from tests.component.inventory.conftest import Keeper


class Fate(Enum):
    """What becomes of a message."""

    ANSWERED = "arrives and is answered"
    LOST = "never arrives"
    UNANSWERED = "arrives, and its answer is lost"
    LATE = "is given up, and arrives later"
    TWICE = "arrives and is answered, and arrives once more later"


@dataclass
class Message:
    """A call that is under way."""

    do: Callable[[], Awaitable[Any]]
    lost: Refusal
    answer: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Network:
    """Carries a message when it is told to, as it is told to."""

    def __init__(self) -> None:
        self.under_way: list[Message] = []
        self.late: list[Callable[[], Awaitable[Any]]] = []
        self.inventory_away = False

    async def carry[T](self, do: Callable[[], Awaitable[T]], lost: Refusal) -> T:
        """The answer to `do`, or what it raises; `lost` when there is none."""
        message = Message(do, lost)
        self.under_way.append(message)
        try:
            answer: T = await message.answer
        except asyncio.CancelledError:
            # Who asked is gone; what was asked for may arrive all the same.
            if message in self.under_way:
                self.under_way.remove(message)
                self.late.append(message.do)
            raise
        return answer

    async def deliver(self, message: Message, fate: Fate) -> None:
        self.under_way.remove(message)
        if self.inventory_away and isinstance(message.lost, InventoryUnavailable):
            fate = Fate.LOST
        answer: Any = None
        refusal: Refusal | None = message.lost
        if fate in (Fate.LATE, Fate.TWICE):
            self.late.append(message.do)
        if fate in (Fate.ANSWERED, Fate.UNANSWERED, Fate.TWICE):
            answer, refusal = await heard(message.do)
        if fate in (Fate.LOST, Fate.UNANSWERED, Fate.LATE):
            refusal = message.lost
        if message.answer.done():
            return
        if refusal is not None:
            message.answer.set_exception(refusal)
        else:
            message.answer.set_result(answer)


async def heard(do: Callable[[], Awaitable[Any]]) -> tuple[Any, Refusal | None]:
    """What comes back: an answer, or a refusal."""
    try:
        return await do(), None
    except Refusal as refusal:
        return None, refusal


class OrdersFarAway:
    """The Orders port over the network."""

    def __init__(self, orders: Orders, network: Network) -> None:
        self._orders, self._network = orders, network

    async def get(self, order_id: UUID, customer_id: str) -> Order:
        return await self._carry(lambda: self._orders.get(order_id, customer_id))

    async def newest(self, customer_id: str, most: int, before: tuple[datetime, UUID] | None) -> Sequence[Order]:
        return await self._carry(lambda: self._orders.newest(customer_id, most, before))

    async def by_request(self, customer_id: str, request_id: str) -> Order | None:
        return await self._carry(lambda: self._orders.by_request(customer_id, request_id))

    async def add(self, order: Order, event: Event | None, request_id: str) -> Order:
        return await self._carry(lambda: self._orders.add(order, event, request_id))

    async def change(self, event: Event) -> bool:
        return await self._carry(lambda: self._orders.change(event))

    async def _carry[T](self, do: Callable[[], Awaitable[T]]) -> T:
        return await self._network.carry(do, DatabaseUnavailable())


class StockFarAway:
    """Order's Stock port, answered by Inventory over the network."""

    def __init__(self, keeper: Keeper, network: Network) -> None:
        self._warehouse, self._network = keeper.warehouse, network

    async def reserve(self, order_id: UUID, cart: Cart, ttl: timedelta, timeout_s: float | None = None) -> None:
        del timeout_s  # the fate of the message says when it is given up

        async def reserve() -> None:
            try:
                await self._warehouse.reserve(order_id, inventory.Lines(cart.items), ttl)
            except Refusal as refusal:
                raise _in_words_of_order(refusal) from refusal

        await self._network.carry(reserve, InventoryUnavailable())

    async def confirm(self, order_ids: Sequence[UUID]) -> Mapping[UUID, NotConfirmed | None]:
        async def confirm() -> Mapping[UUID, NotConfirmed | None]:
            results = await self._warehouse.confirm(order_ids)
            return {
                id: _in_words_of_order(result) if isinstance(result, Refusal) else None
                for id, result in zip(order_ids, results, strict=True)
            }

        return await self._network.carry(confirm, InventoryUnavailable())

    async def release(self, order_id: UUID) -> None:
        await self._network.carry(lambda: self._warehouse.release(order_id), InventoryUnavailable())


def _in_words_of_order(refusal: Refusal) -> NotConfirmed:
    """As services/order/peers.py reads an ErrorInfo."""
    match refusal:
        case inventory.OutOfStock():
            return OutOfStock(**refusal.facts)
        case inventory.ReservationNotFound():
            return ReservationNotFound()
        case inventory.ReservationReleased():
            return ReservationReleased()
    return InventoryUnavailable()
