"""What can be done with stock. No transport, no SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.inventory.domain import Lines, Reservation, Shelf
from services.inventory.ports import Reservations
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
