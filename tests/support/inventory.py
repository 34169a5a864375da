"""The inventory's ports in memory, for tests; the same suite runs against these and against SQL."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from services.inventory.domain import (
    Lines,
    OutOfStock,
    Reservation,
    ReservationNotFound,
    Shelf,
    State,
    Stock,
    StockNotFound,
)
from services.inventory.ports import Rule
from services.refusals import RequestIdReused


class MemoryStocks:
    """Nothing here awaits, so every method is one transaction."""

    def __init__(self) -> None:
        self.shelf: dict[str, Stock] = {}
        self.ledger: list[tuple[UUID | None, str, str, int, int]] = []
        self._adjustments: dict[tuple[str, str], tuple[str, int]] = {}

    async def get(self, product: str) -> Stock:
        if product not in self.shelf:
            raise StockNotFound(product=f"products/{product}")
        return self.shelf[product]

    async def find(self, products: Sequence[str]) -> Shelf:
        return {product: self.shelf[product] for product in products if product in self.shelf}

    async def page(self, after: str | None, most: int) -> Sequence[Stock]:
        return [self.shelf[product] for product in sorted(self.shelf) if after is None or product > after][:most]

    async def adjust(self, product: str, delta: int, caller: str, request_id: str) -> Stock:
        made = self._adjustments.get((caller, request_id))
        if made is None:
            self.shelf[product] = self.shelf.get(product, Stock(product, 0, 0, version=0)).adjusted(delta)
            self._adjustments[caller, request_id] = (product, delta)
            self.ledger.append((None, product, "ADJUSTED", delta, 0))
        elif made != (product, delta):
            raise RequestIdReused(request_id=request_id)
        return self.shelf[product]


class MemoryReservations:
    def __init__(self, stocks: MemoryStocks) -> None:
        self._stocks = stocks
        self.kept: dict[UUID, Reservation] = {}

    async def get(self, id: UUID) -> Reservation:
        if id not in self.kept:
            raise ReservationNotFound(reservation=f"reservations/{id}")
        return self.kept[id]

    async def hold(self, id: UUID, lines: Lines, ttl: timedelta) -> Reservation | None:
        if id in self.kept:
            return None
        try:
            return self._apply(lambda known, shelf, now: known.reserved(lines, shelf, now + ttl), Reservation(id))
        except OutOfStock:
            return None

    async def confirm_held(self, ids: Sequence[UUID]) -> Sequence[Reservation]:
        held = [self.kept[id] for id in ids if id in self.kept and self.kept[id].state is State.HELD]
        return [self._apply(lambda known, shelf, _now: known.confirmed(shelf), known) for known in held]

    async def change(self, id: UUID, rule: Rule, wanted: Lines = Lines()) -> Reservation:  # noqa: ARG002, B008
        return self._apply(rule, self.kept.get(id, Reservation(id)))

    async def change_overdue(self, rule: Rule) -> Reservation | None:
        for known in self.kept.values():
            if known.state is State.HELD and known.expire_time and known.expire_time <= datetime.now(UTC):
                return self._apply(rule, known)
        return None

    def _apply(self, rule: Rule, known: Reservation) -> Reservation:
        after = rule(known, self._stocks.shelf, datetime.now(UTC))
        for move in after.moves_since(known):
            self._stocks.shelf[move.product] = self._stocks.shelf[move.product].moved(move)
            self._stocks.ledger.append((after.id, move.product, after.state.value, move.on_hand, move.reserved))
        self.kept[after.id] = after
        return after


def require_consistent(
    stocks: Shelf, reservations: Iterable[Reservation], ledger: Iterable[tuple[UUID | None, str, str, int, int]]
) -> None:
    """What must hold at every moment: no counter out of bounds, none that the ledger or the holds do not explain."""
    on_hand, reserved, held = Counter[str](), Counter[str](), Counter[str]()
    for _, product, _, on_hand_delta, reserved_delta in ledger:
        on_hand[product] += on_hand_delta
        reserved[product] += reserved_delta
    for reservation in reservations:
        if reservation.state is State.HELD:
            held.update(dict(reservation.lines.items))
    for stock in stocks.values():
        assert 0 <= stock.reserved <= stock.on_hand
        assert stock.on_hand == on_hand[stock.product]
        assert stock.reserved == reserved[stock.product] == held[stock.product]
