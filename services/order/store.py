"""Orders in PostgreSQL, one statement per step."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeGuard
from uuid import UUID

from services.chassis import logs
from services.chassis.database import Database, OutcomeUnknown, Record
from services.chassis.patience import describe, told
from services.chassis.tracing import Part, Span, SpanKind, at, current_traceparent, failed, together, tracing
from services.chassis.worker import Failed, Job
from services.money import Money
from services.order.contract import event_id, event_message, order_message
from services.order.domain import Customer, Event, Line, Order, OrderNotFound, OrderPlaced, OrderRejected, State
from services.order.use_cases import Outcome, Settled, Settlement
from services.refusals import Refusal, Unavailable

log = logs.get()

# Nothing comes back when (customer, request_id) is there already; then EARLIER tells, in a statement of its own, whose
# snapshot sees what this one had to wait for. No conflict target: the id is made from the key, so either of the two
# unique indexes may be hit first, and one that is not named would raise.
_ADD = """
with added as (
  insert into orders (id, customer, request_id, email, state, state_reason, version, lines,
    total_currency, total_units, total_nanos, create_time, update_time)
  values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
  on conflict do nothing
  returning id, version
), said as (
  insert into order_events (order_id, version, type, event_id, payload, traceparent)
  select id, version, $14, $15, $16, $17 from added
)
select id from added"""

_EARLIER = "select * from orders where customer = $1 and request_id = $2"

_GET = "select * from orders where id = $1 and customer = $2"

# Compare-and-set on the version. What was settled is to be settled again, for the new state.
_CHANGE = """
with changed as (
  update orders set version = $2, state = $3, state_reason = $4, update_time = $5,
    settled_time = null, claimed_until = now(), attempts = 0, last_error = null
  where id = $1 and version = $2 - 1
  returning id, version
), said as (
  insert into order_events (order_id, version, type, event_id, payload, traceparent)
  select id, version, $6, $7, $8, $9 from changed
)
select id from changed"""

NEWEST = """
select * from orders
where customer = $1
  and (create_time, id) < (
    coalesce($3, 'infinity'::timestamptz), coalesce($4, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
  )
order by create_time desc, id desc
limit $2"""

# Locks the rows that it leases, for as long as the statement takes; what another replica is leasing is skipped.
_CLAIM = """
with due as (
  select id from orders
  where settled_time is null and claimed_until <= now()
  order by claimed_until
  limit $1
  for update skip locked
)
update orders set claimed_until = now() + interval '30 s', attempts = attempts + 1
from due where orders.id = due.id
returning orders.*,
  (select traceparent from order_events said where said.order_id = orders.id and said.version = orders.version)"""

# Three kinds of outcome, of different rows. Settled and changed are compare-and-set on the version that was acted on,
# and change nothing that another replica has settled meanwhile; a failure is noted only while the lease is ours. A
# change carries on the trace of the version before it.
_SETTLE = """
with settled as (
  update orders set settled_time = now(), last_error = null
  from unnest($1::uuid[], $2::int[]) as s(id, version)
  where orders.id = s.id and orders.version = s.version and settled_time is null
), failed as (
  update orders set last_error = f.error,
    claimed_until = now() + least(interval '10 s', interval '50 ms' * 2 ^ least(attempts, 10)) * (0.8 + 0.4 * random())
  from unnest($3::uuid[], $4::timestamptz[], $5::text[]) as f(id, lease, error)
  where orders.id = f.id and claimed_until = f.lease and settled_time is null
), changed as (
  update orders set state = c.state, state_reason = c.state_reason, version = c.version, update_time = c.update_time,
    claimed_until = now(), attempts = 0, last_error = null
  from unnest($6::uuid[], $7::int[], $8::text[], $9::text[], $10::timestamptz[], $11::text[], $12::uuid[], $13::bytea[])
    as c(id, version, state, state_reason, update_time, type, event_id, payload)
  where orders.id = c.id and orders.version = c.version - 1 and settled_time is null
  returning c.id, c.version, c.type, c.event_id, c.payload
), said as (
  insert into order_events (order_id, version, type, event_id, payload, traceparent)
  select changed.id, changed.version, changed.type, changed.event_id, changed.payload, before.traceparent
  from changed left join order_events before
    on before.order_id = changed.id and before.version = changed.version - 1
)
select id from changed"""


class SqlOrders:
    """The Orders port. Calls `committed` after each commit that left work for relay and settler.

    `changed` instead where that was a change of an order that somebody may watch.
    """

    def __init__(
        self, database: Database, committed: Callable[[], None], changed: Callable[[], None] | None = None
    ) -> None:
        self._database, self._committed, self._changed = database, committed, changed or committed

    async def get(self, order_id: UUID, customer_id: str) -> Order:
        record = await self._database.fetchrow(_GET, order_id, customer_id)
        if record is None:
            raise OrderNotFound(order=f"orders/{order_id}")
        return _order(record)

    async def newest(self, customer_id: str, most: int, before: tuple[datetime, UUID] | None) -> Sequence[Order]:
        records = await self._database.fetch(NEWEST, customer_id, most, *(before or (None, None)))
        return [_order(record) for record in records]

    async def by_request(self, customer_id: str, request_id: str) -> Order | None:
        record = await self._database.fetchrow(_EARLIER, customer_id, request_id)
        return _order(record) if record else None

    async def add(self, order: Order, event: Event | None, request_id: str) -> Order:
        try:
            return await self._add(order, event, request_id)
        except OutcomeUnknown:
            # A look-up would not see a first try that is still committing; the unique key waits for it, then tells.
            return await self._add(order, event, request_id)

    async def _add(self, order: Order, event: Event | None, request_id: str) -> Order:
        units, nanos = order.total.parts
        # What nobody is told of is history all the same, and what watchers see.
        message = event_message(event) if event else order_message(order)
        added = await self._database.fetchval(
            _ADD, order.id, order.customer.id, request_id, order.customer.email, order.state.value, order.state_reason,
            order.version, [_line_record(line) for line in order.lines], order.total.currency, units, nanos,
            order.create_time, order.update_time, message.DESCRIPTOR.full_name if event else None,
            event_id(order) if event else None, message.SerializeToString(), current_traceparent(),
        )  # fmt: skip
        self._committed()
        if added:
            return order
        earlier = await self.by_request(order.customer.id, request_id)
        if earlier is None:
            raise LookupError(f"order {order.id} conflicts with none")  # Rows are never deleted.
        return earlier

    async def change(self, event: Event) -> bool:
        try:
            return await self._change(event)
        except OutcomeUnknown:
            # Waits for a first try that is still committing, then finds the row as that has left it.
            return await self._change(event)

    async def _change(self, event: Event) -> bool:
        order, message = event.order, event_message(event)
        changed = await self._database.fetchval(
            _CHANGE, order.id, order.version, order.state.value, order.state_reason, order.update_time,
            message.DESCRIPTOR.full_name, event_id(order), message.SerializeToString(), current_traceparent(),
        )  # fmt: skip
        self._changed()
        return changed is not None


@dataclass(frozen=True, slots=True)
class Claimed:
    """An order whose settling is ours until `lease`."""

    order: Order
    lease: datetime
    traceparent: str | None
    """Of what made this version of it."""


class SettlerJob(Job[Claimed, Outcome]):
    """The settler: all replicas share the table; `act` decides, this writes it down."""

    name = "settler"

    def __init__(
        self,
        database: Database,
        act: Callable[[Sequence[Order]], Awaitable[Sequence[Settlement]]],
        committed: Callable[[], None],
    ) -> None:
        self._database, self._act, self._committed = database, act, committed

    async def claim(self, most: int) -> Sequence[Claimed]:
        return [
            Claimed(_order(record), record["claimed_until"], record["traceparent"])
            for record in await self._database.fetch(_CLAIM, most)
        ]

    async def act(self, items: Sequence[Claimed]) -> Sequence[Outcome | Failed]:
        # Those that are PLACED are confirmed by one call, which the traces of all lead to. The others have their own.
        placed = [item for item in items if item.order.state is State.PLACED]
        alone = [[item] for item in items if item.order.state is not State.PLACED]
        outcomes: dict[UUID, Outcome | Failed] = {}
        await asyncio.gather(*(self._act_on(some, outcomes) for some in ([placed, *alone] if placed else alone)))
        return [outcomes[item.order.id] for item in items]

    async def _act_on(self, items: Sequence[Claimed], outcomes: dict[UUID, Outcome | Failed]) -> None:
        names = [f"orders/{item.order.id}" for item in items]
        parts = [
            Part("settle", item.traceparent, {tracing.order: name}) for item, name in zip(items, names, strict=True)
        ]
        with logs.about(names[0] if len(names) == 1 else None), together(SpanKind.INTERNAL, parts) as spans:
            settlements = await self._act([item.order for item in items])
            for each, settlement in zip(spans, settlements, strict=True):
                _tell(each, settlement)
            # By identity: what was raised about all that are confirmed together is one thing that went wrong.
            for error, orders in Counter(each for each in settlements if _is_unforeseen(each)).items():
                log.warning("orders cannot be settled", orders=orders, **told(error))
        for item, settlement in zip(items, settlements, strict=True):
            outcomes[item.order.id] = _failed(settlement) if isinstance(settlement, Exception) else settlement

    async def settle(self, outcomes: Sequence[tuple[Claimed, Outcome | Failed]]) -> None:
        settled = [claimed.order for claimed, outcome in outcomes if isinstance(outcome, Settled)]
        failed = [(claimed, outcome.error) for claimed, outcome in outcomes if isinstance(outcome, Failed)]
        events = [(claimed, said) for claimed, said in outcomes if isinstance(said, OrderPlaced | OrderRejected)]
        changed = [event.order for _, event in events]
        messages = [event_message(event) for _, event in events]
        await self._database.execute(
            _SETTLE,
            [order.id for order in settled],
            [order.version for order in settled],
            [claimed.order.id for claimed, _ in failed],
            [claimed.lease for claimed, _ in failed],
            [error for _, error in failed],
            [order.id for order in changed],
            [order.version for order in changed],
            [order.state.value for order in changed],
            [order.state_reason for order in changed],
            [order.update_time for order in changed],
            [message.DESCRIPTOR.full_name for message in messages],
            [event_id(order) for order in changed],
            [message.SerializeToString() for message in messages],
        )
        for claimed, event in events:
            if event.order.state is State.REJECTED:
                with at(claimed.traceparent), logs.about(f"orders/{event.order.id}"):
                    log.warning("order rejected", reason=event.order.state_reason)
        if changed:
            self._committed()


def _tell(settling: Span, settlement: Settlement) -> None:
    """What became of one order, where that is not what everybody expects."""
    match settlement:
        case OrderRejected(order):
            settling.set_attribute(tracing.reason, order.state_reason)
        case Refusal():
            settling.set_attribute(tracing.reason, settlement.reason)
            if isinstance(settlement, Unavailable):  # else somebody has changed the order meanwhile, which may be
                failed(settling, settlement.reason)
        case Exception():
            failed(settling, type(settlement).__qualname__)


def _is_unforeseen(settlement: Settlement) -> TypeGuard[Exception]:
    return isinstance(settlement, Exception) and not isinstance(settlement, Refusal)


def _failed(error: Exception) -> Failed:
    return Failed(error.reason if isinstance(error, Refusal) else describe(error))


def _order(record: Record) -> Order:
    currency = record["total_currency"]
    return Order(
        id=record["id"],
        customer=Customer(record["customer"], record["email"]),
        lines=tuple(_line(line, currency) for line in record["lines"]),
        total=Money.of(currency, record["total_units"], record["total_nanos"]),
        create_time=record["create_time"],
        update_time=record["update_time"],
        state=State(record["state"]),
        state_reason=record["state_reason"],
        version=record["version"],
    )


def _line(line: Mapping[str, Any], currency: str) -> Line:
    price = Money.of(currency, line["units"], line["nanos"])
    return Line(line["product"], line["display_name"], line["quantity"], price)


def _line_record(line: Line) -> dict[str, str | int]:
    units, nanos = line.unit_price.parts
    return {
        "product": line.product,
        "display_name": line.display_name,
        "quantity": line.quantity,
        "units": units,
        "nanos": nanos,
    }
