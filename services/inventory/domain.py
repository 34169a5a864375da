"""What stock is, what a reservation does to it, and what may happen to either.

| now       | reserve             | confirm                   | release              | expire  |
|-----------|---------------------|---------------------------|----------------------|---------|
| NONE      | HELD or OutOfStock  | ReservationNotFound       | RELEASED (tombstone) | -       |
| HELD      | HELD, renewed       | CONFIRMED                 | RELEASED             | EXPIRED |
| EXPIRED   | HELD or OutOfStock  | CONFIRMED or OutOfStock   | RELEASED             | -       |
| CONFIRMED | CONFIRMED           | CONFIRMED                 | RELEASED             | -       |
| RELEASED  | ReservationReleased | ReservationReleased       | RELEASED             | -       |
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Self
from uuid import UUID

from services.refusals import AlreadyExists, NotFound, Rejected


class StockNotFound(NotFound):
    reason = "STOCK_NOT_FOUND"
    message = "Nothing of this product was ever put in stock."


class StockBelowReserved(Rejected):
    reason = "STOCK_BELOW_RESERVED"
    message = "Fewer pieces would be left than are promised."


class OutOfStock(Rejected):
    """Facts: the first product, by id, of which there is not enough; how many were wanted and how many are free."""

    reason = "OUT_OF_STOCK"
    message = "There are not enough pieces of a product."


class ReservationNotFound(NotFound):
    reason = "RESERVATION_NOT_FOUND"
    message = "There is no such reservation."


class ReservationReleased(Rejected):
    reason = "RESERVATION_RELEASED"
    message = "This reservation was released for good."


class ReservationDiffers(AlreadyExists):
    reason = "RESERVATION_DIFFERS"
    message = "This reservation was made with other lines."


@dataclass(frozen=True, slots=True)
class Stock:
    """The pieces of one product; always 0 <= reserved <= on_hand."""

    product: str
    on_hand: int
    reserved: int
    version: int

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved

    def moved(self, move: "Move") -> Self:
        return replace(
            self, on_hand=self.on_hand + move.on_hand, reserved=self.reserved + move.reserved, version=self.version + 1
        )

    def adjusted(self, delta: int) -> Self:
        """With `delta` pieces more, or less. Raises StockBelowReserved."""
        if self.on_hand + delta < self.reserved:
            raise StockBelowReserved(
                product=f"products/{self.product}", on_hand=str(self.on_hand), reserved=str(self.reserved)
            )
        return self.moved(Move(self.product, on_hand=delta, reserved=0))


@dataclass(frozen=True, slots=True)
class Move:
    """What changes about the stock of one product: pieces to add to each counter."""

    product: str
    on_hand: int
    reserved: int


@dataclass(frozen=True, slots=True)
class Lines:
    """How many of which product, in one canonical form: each product once, sorted."""

    items: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, wanted: Iterable[tuple[str, int]]) -> Self:
        pieces = Counter[str]()
        for product, quantity in wanted:
            pieces[product] += quantity
        return cls(tuple(sorted(pieces.items())))

    @property
    def products(self) -> list[str]:
        return [product for product, _ in self.items]

    @property
    def quantities(self) -> list[int]:
        return [quantity for _, quantity in self.items]

    def compared(self, shelf: "Shelf") -> "Iterator[Availability]":
        """Each line beside what there is. What was never in stock counts as 0 available."""
        for product, quantity in self.items:
            yield Availability(product, quantity, shelf[product].available if product in shelf else 0)

    def require(self, shelf: "Shelf") -> None:
        """Raises OutOfStock."""
        for line in self.compared(shelf):
            if not line.in_stock:
                raise OutOfStock(
                    product=f"products/{line.product}", requested=str(line.quantity), available=str(line.available)
                )


@dataclass(frozen=True, slots=True)
class Availability:
    """What is wanted of one product, and what can be promised of it."""

    product: str
    quantity: int
    available: int

    @property
    def in_stock(self) -> bool:
        return self.quantity <= self.available


type Shelf = Mapping[str, Stock]
"""The stock of the products in question, as far as there is any."""


class State(Enum):
    """Where a reservation is in its life. NONE is before it: nobody has asked for it yet."""

    NONE = "NONE"
    HELD = "HELD"
    EXPIRED = "EXPIRED"
    CONFIRMED = "CONFIRMED"
    RELEASED = "RELEASED"


_EFFECT = {
    State.NONE: (0, 0),
    State.HELD: (0, 1),
    State.EXPIRED: (0, 0),
    State.CONFIRMED: (-1, 0),
    State.RELEASED: (0, 0),
}
"""What each piece of a reservation in that state has added to (on_hand, reserved) of its product."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Stock that is set aside for one order, under the id of that order. A change is a new Reservation.

    State decides, never a clock: what is HELD is good until it was made EXPIRED.
    """

    id: UUID
    lines: Lines = Lines()
    state: State = State.NONE
    expire_time: datetime | None = None
    """None when it was released before it was ever held."""

    def reserved(self, lines: Lines, shelf: Shelf, until: datetime) -> Self:
        """Held until `until` at least. Raises ReservationDiffers, ReservationReleased, OutOfStock."""
        # A tombstone has no lines that others could differ from.
        if self.lines.items and self.lines != lines:
            raise ReservationDiffers(reservation=f"reservations/{self.id}")
        match self.state:
            case State.RELEASED:
                raise ReservationReleased(reservation=f"reservations/{self.id}")
            case State.CONFIRMED:
                return self
            case State.NONE | State.EXPIRED:
                lines.require(shelf)
        return replace(self, lines=lines, state=State.HELD, expire_time=max(until, self.expire_time or until))

    def confirmed(self, shelf: Shelf) -> Self:
        """Its pieces have left. Raises ReservationNotFound, ReservationReleased, OutOfStock."""
        match self.state:
            case State.NONE:
                raise ReservationNotFound(reservation=f"reservations/{self.id}")
            case State.RELEASED:
                raise ReservationReleased(reservation=f"reservations/{self.id}")
            case State.EXPIRED:
                self.lines.require(shelf)
        return replace(self, state=State.CONFIRMED)

    def released(self) -> Self:
        """Given back for good: it can never be held again, also when it was not known before."""
        return replace(self, state=State.RELEASED)

    def expired(self) -> Self:
        """The promise of a hold lapses; nothing else does."""
        return replace(self, state=State.EXPIRED) if self.state is State.HELD else self

    def moves_since(self, before: Self) -> tuple[Move, ...]:
        """What the change from `before` does to the stock: nothing where the counters stay."""
        on_hand, reserved = (now - then for now, then in zip(_EFFECT[self.state], _EFFECT[before.state], strict=True))
        if not (on_hand or reserved):
            return ()
        return tuple(Move(product, on_hand * quantity, reserved * quantity) for product, quantity in self.lines.items)
