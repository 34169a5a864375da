"""What an order is and what may happen to it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from functools import reduce
from operator import add
from typing import Self
from uuid import UUID, uuid5

from services.money import Money
from services.refusals import InvalidRequest, NotFound, Rejected, Unavailable

MOST_PIECES = 999
"""Of one product in one order."""

_ORDERS = UUID("3a7c1f62-8d0e-4b53-9c41-f5d2a6e80b17")


class State(Enum):
    """Where an order is in its life: PENDING_STOCK -> PLACED | REJECTED | CANCELLED, PLACED -> REJECTED | CANCELLED."""

    PENDING_STOCK = "PENDING_STOCK"
    PLACED = "PLACED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator has set, as of now."""

    hold_ttl: timedelta
    reserve_timeout: timedelta
    accepts_pending: bool
    """What becomes of an order while Inventory does not answer: PENDING_STOCK, or refused."""
    pending_bound: timedelta
    """An order that is still pending at that age is rejected, if Inventory is away even then."""


@dataclass(frozen=True, slots=True)
class Customer:
    """Who buys, as the token says."""

    id: str
    email: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What the catalogue says of one product."""

    display_name: str
    price: Money
    archived: bool = False
    """Not sold any more."""


@dataclass(frozen=True, slots=True)
class Cart:
    """What is wanted, in one canonical form: each product once, sorted."""

    items: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, wanted: Iterable[tuple[str, int]]) -> Self:
        """Adds up the lines of one product. Raises InvalidRequest when that is more than an order may hold."""
        pieces: dict[str, int] = {}
        for position, (product, quantity) in enumerate(wanted):
            pieces[product] = pieces.get(product, 0) + quantity
            if pieces[product] > MOST_PIECES:
                raise InvalidRequest(
                    (f"order.lines[{position}].quantity", f"all lines of {product} together exceed {MOST_PIECES}")
                )
        return cls(tuple(sorted(pieces.items())))

    @property
    def products(self) -> tuple[str, ...]:
        return tuple(product for product, _ in self.items)

    def priced(self, offers: Mapping[str, Offer]) -> tuple["Line", ...]:
        """Raises ProductArchived."""
        for product in self.products:
            if offers[product].archived:
                raise ProductArchived(product=f"products/{product}")
        return tuple(
            Line(product, offers[product].display_name, quantity, offers[product].price)
            for product, quantity in self.items
        )


def order_id(customer_id: str, request_id: str, cart: Cart) -> UUID:
    """The id an order will have: the same for every try of one request, another for another cart."""
    return uuid5(_ORDERS, json.dumps([customer_id, request_id, cart.items]))


@dataclass(frozen=True, slots=True)
class Line:
    """One product, how many of it, and what it was called and one piece cost on that day."""

    product: str
    display_name: str
    quantity: int
    unit_price: Money

    @property
    def price(self) -> Money:
        return self.unit_price * self.quantity


@dataclass(frozen=True, slots=True)
class Order:
    """One purchase. Never changes: a change is a new Order with the next version."""

    id: UUID
    customer: Customer
    lines: tuple[Line, ...]
    total: Money
    create_time: datetime
    update_time: datetime
    state: State = State.PLACED
    state_reason: str = ""
    version: int = 1

    @classmethod
    def place(cls, id: UUID, customer: Customer, lines: tuple[Line, ...], at: datetime) -> Self:
        """Raises EmailMissing and CurrencyMixed."""
        if not customer.email:
            raise EmailMissing
        return cls(id, customer, lines, reduce(add, (line.price for line in lines)), at, at)

    @property
    def etag(self) -> str:
        """Changes with every change of the order (AIP-154)."""
        return f'"{self.version}"'

    @property
    def cart(self) -> Cart:
        return Cart(tuple((line.product, line.quantity) for line in self.lines))

    def pending(self) -> Self:
        """The same purchase, accepted before anybody could tell whether its pieces are there."""
        return replace(self, state=State.PENDING_STOCK)

    def accept(self, at: datetime) -> Self:
        """The pieces that it was pending for are promised."""
        return self._next(State.PLACED, at)

    def reject(self, reason: str, at: datetime) -> Self:
        """The shop cannot keep what it promised; `reason` is a reason code such as OUT_OF_STOCK."""
        return self._next(State.REJECTED, at, reason)

    def cancel(self, at: datetime) -> Self:
        """Its customer does not want it any more. Raises OrderNotCancellable."""
        if self.state is State.REJECTED or self.state is State.CANCELLED:
            raise OrderNotCancellable(order=f"orders/{self.id}", state=f"STATE_{self.state.value}")
        return self._next(State.CANCELLED, at)

    def _next(self, state: State, at: datetime, reason: str = "") -> Self:
        # The clock of whoever changes it may be behind that of whoever did before.
        later = max(at, self.update_time + timedelta(microseconds=1))
        return replace(self, state=state, state_reason=reason, version=self.version + 1, update_time=later)


@dataclass(frozen=True, slots=True)
class OrderPlaced:
    """Said once per order, when its pieces are promised: with it, or with its change from PENDING_STOCK."""

    order: Order


@dataclass(frozen=True, slots=True)
class OrderRejected:
    """Said once per rejected order, with the change."""

    order: Order


@dataclass(frozen=True, slots=True)
class OrderCancelled:
    """Said once per cancelled order, with the change."""

    order: Order


type Event = OrderPlaced | OrderRejected | OrderCancelled


class EmailMissing(Rejected):
    reason = "EMAIL_MISSING"
    message = "Your account has no e-mail address, so we could not tell you about an order."


class OrderNotFound(NotFound):
    reason = "ORDER_NOT_FOUND"
    message = "You have no such order."


class OrderNotCancellable(Rejected):
    """Facts: order, state."""

    reason = "ORDER_NOT_CANCELLABLE"
    message = "This order has come to its end already."


class ProductNotFound(NotFound):
    reason = "PRODUCT_NOT_FOUND"
    message = "One of the products is not in the catalogue."


class ProductArchived(Rejected):
    """Facts: product."""

    reason = "PRODUCT_ARCHIVED"
    message = "One of the products is not sold any more; nothing was ordered."


class OutOfStock(Rejected):
    """Facts: product, requested, available."""

    reason = "OUT_OF_STOCK"
    message = "There are not enough pieces of one of the products; nothing was ordered."


class ReservationNotFound(NotFound):
    """Inventory has never heard of this hold."""

    reason = "RESERVATION_NOT_FOUND"
    message = "There is no such reservation."


class ReservationReleased(Rejected):
    """The hold was given back for good."""

    reason = "RESERVATION_RELEASED"
    message = "This reservation was released."


class CatalogUnavailable(Unavailable):
    reason = "CATALOG_UNAVAILABLE"
    message = "Prices cannot be asked for at the moment; nothing was ordered."


class InventoryUnavailable(Unavailable):
    reason = "INVENTORY_UNAVAILABLE"
    message = "Stock cannot be promised at the moment; nothing was ordered."


class DeadlineTooShort(Unavailable):
    reason = "DEADLINE_TOO_SHORT"
    message = "The time left for this call is too short to place an order; nothing was ordered."
