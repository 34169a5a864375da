"""What the order service needs from outside, in memory."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from services.money import Money
from services.order.domain import (
    Cart,
    Customer,
    Event,
    Offer,
    Order,
    OrderNotFound,
    OrderPlaced,
    OutOfStock,
    ProductNotFound,
    ReservationNotFound,
    ReservationReleased,
    Terms,
    order_id,
)
from services.order.ports import NotConfirmed
from services.refusals import Refusal

ANN = Customer("ann", "ann@example.com")
BOB = Customer("bob", "bob@example.com")
MUGS = Cart.of([("mug", 2)])
MUG_AND_TEAPOT = Cart.of([("mug", 1), ("teapot", 1)])
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ONE_O_CLOCK = NOON + timedelta(hours=1)
TERMS = Terms(
    hold_ttl=timedelta(minutes=10),
    reserve_timeout=timedelta(seconds=1),
    accepts_pending=False,
    pending_bound=timedelta(hours=1),
)
PENDING_TERMS = replace(TERMS, accepts_pending=True)
SHELF = {"mug": Offer("Mug", Money.of("EUR", 12, 500_000_000)), "teapot": Offer("Teapot", Money.of("EUR", 39))}


def order(cart: Cart = MUGS, customer: Customer = ANN, request_id: str = "r1", at: datetime = NOON) -> Order:
    """As PlaceOrder would make it."""
    return Order.place(order_id(customer.id, request_id, cart), customer, cart.priced(SHELF), at)


class MemoryOrders:
    """The Orders port in memory."""

    def __init__(self) -> None:
        self.said: list[Event] = []
        self._kept: dict[UUID, Order] = {}
        self._requests: dict[tuple[str, str], UUID] = {}

    async def get(self, order_id: UUID, customer_id: str) -> Order:
        kept = self._kept.get(order_id)
        if kept is None or kept.customer.id != customer_id:
            raise OrderNotFound(order=f"orders/{order_id}")
        return kept

    async def newest(self, customer_id: str, most: int, before: tuple[datetime, UUID] | None) -> Sequence[Order]:
        own = [kept for kept in self._kept.values() if kept.customer.id == customer_id]
        own.sort(key=lambda kept: (kept.create_time, kept.id), reverse=True)
        return [kept for kept in own if before is None or (kept.create_time, kept.id) < before][:most]

    async def by_request(self, customer_id: str, request_id: str) -> Order | None:
        id = self._requests.get((customer_id, request_id))
        return self._kept[id] if id else None

    async def add(self, order: Order, event: Event | None, request_id: str) -> Order:
        first = self._requests.setdefault((order.customer.id, request_id), order.id)
        if first not in self._kept:
            self._kept[first] = order
            if event:
                self.said.append(event)
        return self._kept[first]

    async def change(self, event: Event) -> bool:
        kept = self._kept.get(event.order.id)
        if kept is None or kept.version != event.order.version - 1:
            return False
        self._kept[event.order.id] = event.order
        self.said.append(event)
        return True


class Catalogue:
    """The Catalog port over a dict, after `before` has happened."""

    def __init__(
        self, offers: Mapping[str, Offer] = SHELF, before: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._offers, self._before = offers, before
        self.timeout_s: float | None = None

    async def offers(self, products: Iterable[str], timeout_s: float | None = None) -> Mapping[str, Offer]:
        self.timeout_s = timeout_s
        if self._before:
            await self._before()
        for product in products:
            if product not in self._offers:
                raise ProductNotFound(product=f"products/{product}")
        return self._offers


@dataclass
class Warehouse:
    """The Stock port: endless pieces of what is not `short`, after `before` has happened; away while `away` is set.

    `away_for` is for single orders that are to be held.
    """

    before: Callable[[], Awaitable[None]] | None = None
    away: Refusal | None = None
    away_for: dict[UUID, Exception] = field(default_factory=dict)
    short: set[str] = field(default_factory=set)
    held: dict[UUID, str] = field(default_factory=dict)
    ttl: timedelta | None = None
    timeout_s: float | None = None

    async def reserve(self, order_id: UUID, cart: Cart, ttl: timedelta, timeout_s: float | None = None) -> None:
        self.ttl, self.timeout_s = ttl, timeout_s
        if self.before:
            await self.before()
        if away := self.away_for.get(order_id, self.away):
            raise away
        match self.held.get(order_id):
            case "RELEASED":
                raise ReservationReleased
            case None | "EXPIRED":
                for product, quantity in cart.items:
                    if product in self.short:
                        raise OutOfStock(product=f"products/{product}", requested=str(quantity), available="0")
                self.held[order_id] = "HELD"

    async def confirm(self, order_ids: Sequence[UUID]) -> Mapping[UUID, NotConfirmed | None]:
        if self.away:
            raise self.away
        return {id: self._confirmed(id) for id in order_ids}

    def _confirmed(self, order_id: UUID) -> NotConfirmed | None:
        match self.held.get(order_id):
            case None:
                return ReservationNotFound()
            case "RELEASED":
                return ReservationReleased()
            case "EXPIRED" if self.short:
                return OutOfStock(product=f"products/{min(self.short)}", requested="1", available="0")
        self.held[order_id] = "CONFIRMED"
        return None

    async def release(self, order_id: UUID) -> None:
        if self.away:
            raise self.away
        self.held[order_id] = "RELEASED"


async def place_meanwhile(orders: MemoryOrders, other: Order, request_id: str = "r1") -> None:
    """Another try of a request gets through."""
    await orders.add(other, OrderPlaced(other), request_id)
