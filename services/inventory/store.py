"""Stock and reservations in PostgreSQL."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from services.chassis.database import Connection, Database, OutcomeUnknown, Record
from services.inventory.domain import (
    Lines,
    Reservation,
    ReservationNotFound,
    Shelf,
    State,
    Stock,
    StockNotFound,
)
from services.inventory.ports import Rule
from services.refusals import RequestIdReused

KNOWN = "select * from reservations where id = $1"

# Locks: the new reservation (others with its id wait), then stock by product. The numbers looked at before that are
# those of the snapshot and only spare a vain try: if they were taken meanwhile, the constraint of `stock` fails the
# statement as a whole.
HOLD = """
with wanted as (
  select product, quantity from unnest($2::text[], $3::bigint[]) as line (product, quantity)
), held as (
  insert into reservations (id, state, products, quantities, expire_time)
  select $1, 'HELD', $2, $3, now() + $4::interval
  where cardinality($2) =
    (select count(*) from stock join wanted using (product) where on_hand - reserved >= quantity)
  on conflict do nothing
  returning id, expire_time
), locked as (
  select product, quantity from stock join wanted using (product), held order by product for update of stock
), moved as (
  update stock set reserved = reserved + quantity, version = version + 1
  from locked where stock.product = locked.product
), booked as (
  insert into ledger (reservation_id, product, kind, on_hand_delta, reserved_delta)
  select id, product, 'HELD', 0, quantity from locked, held
)
select expire_time from held"""

# Locks: the reservations by id, then stock by product. `needed` is summed: an update applies one row per product.
CONFIRM_HELD = """
with mine as (
  select id, products, quantities from reservations
  where id = any($1::uuid[]) and state = 'HELD' order by id for update
), line as (
  select id, line.product, line.quantity from mine, unnest(products, quantities) as line (product, quantity)
), needed as (
  select product, sum(quantity)::bigint as quantity from line group by product
), locked as (
  select product, quantity from stock join needed using (product) order by product for update of stock
), moved as (
  update stock set on_hand = on_hand - quantity, reserved = reserved - quantity, version = version + 1
  from locked where stock.product = locked.product
), booked as (
  insert into ledger (reservation_id, product, kind, on_hand_delta, reserved_delta)
  select id, product, 'CONFIRMED', -quantity, -quantity from line
)
update reservations set state = 'CONFIRMED', update_time = now() from mine where reservations.id = mine.id
returning reservations.*, now() as read_time"""

# Without a row there is nothing to lock: then this row, which no other transaction sees before the commit, is the lock.
CLAIM_ID = """
insert into reservations (id, state, products, quantities) values ($1, 'RELEASED', '{}', '{}')
on conflict do nothing returning clock_timestamp()"""

LOCK_KNOWN = "select *, clock_timestamp() as read_time from reservations where id = $1 for update"

LOCK_OVERDUE = """
select *, clock_timestamp() as read_time from reservations
where state = 'HELD' and expire_time <= now() order by expire_time limit 1 for update skip locked"""

LOCK_STOCK = "select * from stock where product = any($1) order by product for update"

KEEP = """
with kept as (
  update reservations set state = $2, products = $3, quantities = $4, expire_time = $5, update_time = now()
  where id = $1
), move as (
  select * from unnest($6::text[], $7::bigint[], $8::bigint[]) as move (product, on_hand_delta, reserved_delta)
), moved as (
  update stock set on_hand = on_hand + on_hand_delta, reserved = reserved + reserved_delta, version = version + 1
  from move where stock.product = move.product
)
insert into ledger (reservation_id, product, kind, on_hand_delta, reserved_delta)
select $1, product, $2, on_hand_delta, reserved_delta from move"""


class SqlReservations:
    """Reservations (port), in two statements where it is easy and in transactions where the rules decide."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, id: UUID) -> Reservation:
        row = await self._database.fetchrow(KNOWN, id)
        if row is None:
            raise ReservationNotFound(reservation=f"reservations/{id}")
        return _reservation(row)

    async def hold(self, id: UUID, lines: Lines, ttl: timedelta) -> Reservation | None:
        try:
            expire_time = await self._database.fetchval(HOLD, id, lines.products, lines.quantities, ttl)
        except asyncpg.CheckViolationError:
            return None
        return Reservation(id, lines, State.HELD, expire_time) if expire_time else None

    async def confirm_held(self, ids: Sequence[UUID]) -> Sequence[Reservation]:
        return [_reservation(row) for row in await self._database.fetch(CONFIRM_HELD, ids)]

    async def change(self, id: UUID, rule: Rule, wanted: Lines = Lines()) -> Reservation:  # noqa: B008  immutable
        async with self._database.transaction() as connection:
            known, now = await _lock(connection, id)
            return await _apply(rule, known, known.lines if known.lines.items else wanted, now, connection)

    async def change_overdue(self, rule: Rule) -> Reservation | None:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(LOCK_OVERDUE)
            if row is None:
                return None
            known = _reservation(row)
            return await _apply(rule, known, known.lines, row["read_time"], connection)


async def _lock(connection: Connection, id: UUID) -> tuple[Reservation, datetime]:
    """The reservation and the time, under a lock that keeps all others from it, also when there is none yet."""
    row = await connection.fetchrow(LOCK_KNOWN, id)
    if row is None:
        now: datetime | None = await connection.fetchval(CLAIM_ID, id)
        if now is not None:
            return Reservation(id), now
        row = await connection.fetchrow(LOCK_KNOWN, id)  # somebody else was first, and reservations stay
        assert row is not None
    return _reservation(row), row["read_time"]


async def _apply(rule: Rule, known: Reservation, lines: Lines, now: datetime, connection: Connection) -> Reservation:
    rows: Iterable[Record] = await connection.fetch(LOCK_STOCK, lines.products) if lines.items else ()
    after = rule(known, {row["product"]: _stock(row) for row in rows}, now)
    if after != known:
        moves = after.moves_since(known)
        await connection.execute(
            KEEP,
            after.id,
            after.state.value,
            after.lines.products,
            after.lines.quantities,
            after.expire_time,
            [move.product for move in moves],
            [move.on_hand for move in moves],
            [move.reserved for move in moves],
        )
    return after


def _reservation(row: Record) -> Reservation:
    lines = Lines(tuple(zip(row["products"], row["quantities"], strict=True)))
    return Reservation(row["id"], lines, State(row["state"]), row["expire_time"])


def _stock(row: Record) -> Stock:
    return Stock(row["product"], row["on_hand"], row["reserved"], row["version"])


GET = "select * from stock where product = $1"
FIND = "select * from stock where product = any($1)"
FIRST_PAGE = 'select * from stock order by product collate "C" limit $1'
NEXT_PAGE = 'select * from stock where product collate "C" > $2 order by product collate "C" limit $1'

REMEMBER = """
insert into adjustments (caller, request_id, product, delta) values ($1, $2, $3, $4)
on conflict do nothing returning true"""

REMEMBERED = "select product, delta from adjustments where caller = $1 and request_id = $2"

ENSURE = "insert into stock (product, on_hand, reserved, version) values ($1, 0, 0, 0) on conflict do nothing"

ADJUST = """
with booked as (
  insert into ledger (product, kind, on_hand_delta, reserved_delta) values ($1, 'ADJUSTED', $2, 0)
)
update stock set on_hand = on_hand + $2, version = version + 1 where product = $1"""


class SqlStocks:
    """Stocks (port)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, product: str) -> Stock:
        row = await self._database.fetchrow(GET, product)
        if row is None:
            raise StockNotFound(product=f"products/{product}")
        return _stock(row)

    async def find(self, products: Sequence[str]) -> Shelf:
        return {row["product"]: _stock(row) for row in await self._database.fetch(FIND, products)}

    async def page(self, after: str | None, most: int) -> Sequence[Stock]:
        if after is None:
            rows = await self._database.fetch(FIRST_PAGE, most)
        else:
            rows = await self._database.fetch(NEXT_PAGE, most, after)
        return [_stock(row) for row in rows]

    async def adjust(self, product: str, delta: int, caller: str, request_id: str) -> Stock:
        try:
            return await self._adjust(product, delta, caller, request_id)
        except OutcomeUnknown:
            # The request's key waits for a first try that is still committing, then tells.
            return await self._adjust(product, delta, caller, request_id)

    async def _adjust(self, product: str, delta: int, caller: str, request_id: str) -> Stock:
        async with self._database.transaction() as connection:
            # Locks the request_id: a repeat waits here until the first one has ended.
            if not await connection.fetchval(REMEMBER, caller, request_id, product, delta):
                made = await connection.fetchrow(REMEMBERED, caller, request_id)
                assert made is not None
                if (made["product"], made["delta"]) != (product, delta):
                    raise RequestIdReused(request_id=request_id)
                row = await connection.fetchrow(GET, product)
                assert row is not None
                return _stock(row)
            await connection.execute(ENSURE, product)
            row = await connection.fetchrow(GET + " for update", product)
            assert row is not None
            adjusted = _stock(row).adjusted(delta)
            await connection.execute(ADJUST, product, delta)
            return adjusted
