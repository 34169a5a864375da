"""What can be done with stock. No transport, no SQL."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.inventory.domain import Availability, Lines, Reservation, Shelf, Stock, StockNotFound
from services.inventory.ports import Reservations, Stocks
from services.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Warehouse:
    """The desk where orders have pieces set aside.

    What nearly always happens is tried first, in one step; whatever that does not settle, the rules decide under locks.
    So a refusal is never said before the reservation itself was looked at: a repeat does not lose to its own first try.
    """

    reservations: Reservations

    async def reserve(self, id: UUID, lines: Lines, ttl: timedelta) -> Reservation:
        """All lines or none. Raises OutOfStock, ReservationDiffers, ReservationReleased."""

        def rule(known: Reservation, shelf: Shelf, now: datetime) -> Reservation:
            return known.reserved(lines, shelf, now + ttl)

        return await self.reservations.hold(id, lines, ttl) or await self.reservations.change(id, rule, lines)

    async def confirm(self, ids: Sequence[UUID]) -> list[Reservation | Refusal]:
        """One result per id, in their order; one that is refused does not stop the others."""
        done = {reservation.id: reservation for reservation in await self.reservations.confirm_held(ids)}
        return [done.get(id) or await self._confirm_one(id) for id in ids]

    async def release(self, id: UUID) -> Reservation:
        return await self.reservations.change(id, lambda known, _shelf, _now: known.released())

    async def lapse_one(self) -> bool:
        """Ends one hold whose time is over. False when there is none left."""
        return await self.reservations.change_overdue(lambda held, _shelf, _now: held.expired()) is not None

    async def _confirm_one(self, id: UUID) -> Reservation | Refusal:
        try:
            return await self.reservations.change(id, lambda known, shelf, _now: known.confirmed(shelf))
        except Refusal as refusal:
            return refusal


@dataclass(frozen=True, slots=True)
class Stocktaking:
    """Looking along the shelves; nothing is promised by it."""

    stocks: Stocks

    async def several(self, products: Iterable[str]) -> list[Stock]:
        """Each once, in the order of first mention. Raises StockNotFound for the first that is missing."""
        wanted = list(dict.fromkeys(products))
        shelf = await self.stocks.find(wanted)
        for product in wanted:
            if product not in shelf:
                raise StockNotFound(product=f"products/{product}")
        return [shelf[product] for product in wanted]

    async def check(self, wanted: Sequence[tuple[str, int]]) -> list[Availability]:
        """What there is for a cart: each product once, its lines added up, in the order of first mention."""
        lines = Lines.of(wanted)
        there = {line.product: line for line in lines.compared(await self.stocks.find(lines.products))}
        return [there[product] for product in dict.fromkeys(product for product, _ in wanted)]

    async def page(self, after: str | None, size: int) -> tuple[Sequence[Stock], str | None]:
        """A page, and the product behind which the next one begins; None on the last page."""
        # One more than asked for tells whether this is the last page.
        stock = await self.stocks.page(after, size + 1)
        page = stock[:size]
        return page, page[-1].product if len(stock) > size else None
