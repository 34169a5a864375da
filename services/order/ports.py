"""What the order service needs from outside, in its own words."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from services.order.domain import (
    Cart,
    Event,
    InventoryUnavailable,
    Offer,
    Order,
    OutOfStock,
    ReservationNotFound,
    ReservationReleased,
)


class Orders(Protocol):
    """Where orders are kept. Each method is one transaction; all raise Unavailable when that is not possible."""

    async def get(self, order_id: UUID, customer_id: str) -> Order:
        """Raises OrderNotFound, also for another customer's order."""
        ...

    async def newest(self, customer_id: str, most: int, before: tuple[datetime, UUID] | None) -> Sequence[Order]:
        """The customer's orders by (create_time, id), falling; only those below `before`."""
        ...

    async def by_request(self, customer_id: str, request_id: str) -> Order | None:
        """The order that this request placed, as it is now, if it did."""
        ...

    async def add(self, order: Order, event: Event | None, request_id: str) -> Order:
        """Keeps the order and its announcement, both or neither; None: nobody is told of it yet.

        (customer, request_id) is unique and decides alone: returns `order`, or the order that was there first, as it
        is now. When the outcome of a commit is unknown, asks the key once more by repeating it; raises Unavailable
        when it could not be told, and then the order may exist.
        """
        ...

    async def change(self, event: Event) -> bool:
        """Keeps the order of `event` and the event, both or neither, and has it settled anew.

        False, and nothing has changed, when the version before is not the one that is kept (any more). Asks once more
        when the outcome of a commit is unknown: then False may mean that the first try got through.
        """
        ...


class Catalog(Protocol):
    """What there is to buy, and for how much."""

    async def offers(self, products: Iterable[str], timeout_s: float | None = None) -> Mapping[str, Offer]:
        """One for each product. Raises ProductNotFound, CatalogUnavailable. `timeout_s` bounds the wait."""
        ...


type NotConfirmed = OutOfStock | ReservationNotFound | ReservationReleased | InventoryUnavailable


class Stock(Protocol):
    """What can be promised. All raise InventoryUnavailable."""

    async def reserve(self, order_id: UUID, cart: Cart, ttl: timedelta, timeout_s: float | None = None) -> None:
        """Holds all of it or nothing for `ttl`; again under the same id renews the hold.

        Raises OutOfStock, ReservationReleased. `timeout_s` is how long an answer is waited for.
        """
        ...

    async def confirm(self, order_ids: Sequence[UUID]) -> Mapping[UUID, NotConfirmed | None]:
        """Turns holds into sales, each by itself: None when it is one, else why not."""
        ...

    async def release(self, order_id: UUID) -> None:
        """Gives back what the order holds or has used; it can never be held again."""
        ...
