"""What the inventory service needs from outside, in its own words."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from services.inventory.domain import Lines, Reservation, Shelf, Stock

type Rule = Callable[[Reservation, Shelf, datetime], Reservation]
"""What shall become of a reservation, given the stock of its products and the time. A refusal that it raises ends
the transaction with nothing changed."""


class Reservations(Protocol):
    """Where reservations and the stock they are taken from are kept. Each method is one transaction.

    A change moves the counters and writes the ledger with it. Locks are taken in one order, reservations by id, then
    stock by product, so that no two calls ever wait for each other. All raise Unavailable.
    """

    async def get(self, id: UUID) -> Reservation:
        """Raises ReservationNotFound."""
        ...

    async def hold(self, id: UUID, lines: Lines, ttl: timedelta) -> Reservation | None:
        """Holds `lines` under an id that is new. None, and nothing changed, when it is known or stock may be short."""
        ...

    async def confirm_held(self, ids: Sequence[UUID]) -> Sequence[Reservation]:
        """Confirms all of these that are HELD, and returns them in any order; leaves the others as they are."""
        ...

    async def change(self, id: UUID, rule: Rule, wanted: Lines = Lines()) -> Reservation:  # noqa: B008  immutable
        """Locks the reservation and the stock of its lines (of `wanted` while it has none), and applies the rule.

        A reservation that is not known is given to the rule in state NONE. The time is the database's.
        """
        ...

    async def change_overdue(self, rule: Rule) -> Reservation | None:
        """As `change`, for some HELD reservation whose expire_time has passed and that nobody else is changing."""
        ...


class Stocks(Protocol):
    """Where stock is counted. Each method is one transaction; all raise Unavailable."""

    async def get(self, product: str) -> Stock:
        """Raises StockNotFound."""
        ...

    async def find(self, products: Sequence[str]) -> Shelf:
        """The stock of those that have any; the numbers are of one moment."""
        ...

    async def page(self, after: str | None, most: int) -> Sequence[Stock]:
        """Up to `most` behind the product `after` (None: from the beginning), in the order of product ids."""
        ...

    async def adjust(self, product: str, delta: int, caller: str, request_id: str) -> Stock:
        """Adds `delta` pieces, once per (caller, request_id), and returns the stock as it is now.

        The first pieces create the stock. Raises StockBelowReserved, and RequestIdReused when the request_id made
        another adjustment; a refused adjustment does not use up its request_id. When the outcome of a commit is
        unknown, asks the key once more by repeating it; raises Unavailable when it could not be told.
        """
        ...
