"""What `shopmesh audit` reads of the services' databases: little at a time, and locking nothing."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from uuid import UUID

from services.cli.audit.rules import Case
from services.story.databases import SERVICES, Databases, Row

AT_ONCE = 2000
"""Orders whose rows are in memory."""
SAMPLE = 256
"""Ids are spread evenly: this part of all of them tells how many there are."""
SPACE = 1 << 128

# $1 and $2: ids from and to. $3: since when. What is under way counts however old it is.
_IDS = {
    "order": """
select order_id from audit_orders
where order_id between $1 and $2 and (create_time >= $3 or settled_time is null)
union
select order_id from audit_order_events
where order_id between $1 and $2 and (create_time >= $3 or sent_time is null and type is not null)""",
    "inventory": """
select reservation_id from audit_reservations
where reservation_id between $1 and $2 and (create_time >= $3 or state = 'HELD')""",
    "notification": """
select order_id from audit_notifications
where order_id between $1 and $2 and (create_time >= $3 or state in ('READY', 'SENDING'))""",
}

_ORDERS = """
select order_id, customer, email, state, state_reason, version, total_currency, total_units, total_nanos, create_time,
  update_time, settled_time, claimed_until, lines
from audit_orders where order_id = any($1)"""

_EVENTS = """
select order_id, version, type, event_id, create_time, sent_time, attempts, resends, unsent_time,
  case when $2 then payload end as payload
from audit_order_events where order_id = any($1) order by order_id, version"""

_RESERVATIONS = """
select reservation_id, state, expire_time, products, quantities
from audit_reservations where reservation_id = any($1)"""

_NOTIFICATIONS = """
select told.notification_id, told.order_id, kind, version, customer, recipient, told.event_type, told.event_id,
  told.state, told.attempts, claimable_time, possible_duplicates, dead.state as dead_letter_state
from audit_notifications told left join audit_dead_letters dead on dead.dead_letter_id = told.notification_id
where told.order_id = any($1)"""

# Counters, ledger and holds change in one transaction, so one statement sees them agree at every moment.
STOCK = """
with booked as (
  select product, sum(on_hand_delta)::bigint as on_hand, sum(reserved_delta)::bigint as reserved
  from audit_ledger group by product
), held as (
  select product, sum(quantity)::bigint as reserved
  from audit_reservations, unnest(products, quantities) as line (product, quantity)
  where state = 'HELD' group by product
)
select product, stock.on_hand, stock.reserved, coalesce(booked.on_hand, 0) as booked_on_hand,
  coalesce(booked.reserved, 0) as booked_reserved, coalesce(held.reserved, 0) as held
from audit_stock stock full join booked using (product) full join held using (product)
order by product"""

# What a reservation has moved, against what its state says. Its rows in the ledger are no older than itself.
LEDGER = """
with wanted as (
  select reservation_id, state, product, case state when 'CONFIRMED' then -quantity else 0 end as on_hand,
    case state when 'HELD' then quantity else 0 end as reserved
  from audit_reservations, unnest(products, quantities) as line (product, quantity)
  where create_time >= $1
), booked as (
  select reservation_id, product, sum(on_hand_delta)::bigint as on_hand, sum(reserved_delta)::bigint as reserved
  from audit_ledger where reservation_id is not null and create_time >= $1 group by 1, 2
)
select reservation_id, product, coalesce(state, 'absent') as state, coalesce(wanted.on_hand, 0) as on_hand,
  coalesce(wanted.reserved, 0) as reserved, coalesce(booked.on_hand, 0) as booked_on_hand,
  coalesce(booked.reserved, 0) as booked_reserved
from wanted full join booked using (reservation_id, product)
where (coalesce(wanted.on_hand, 0), coalesce(wanted.reserved, 0))
    <> (coalesce(booked.on_hand, 0), coalesce(booked.reserved, 0))
  and (state is not null or not exists (
    select from audit_reservations older where older.reservation_id = booked.reservation_id and older.create_time < $1
  ))
order by 1, 2 limit $2"""

BURIED = "select event_id from audit_dead_letters where notification_id is null and state <> 'REDRIVEN' limit 100000"

DEAD_LETTERS = """
select dead_letter_id, order_id, event_type, event_id, reason, create_time from audit_dead_letters
where state = 'OPEN' order by create_time desc limit $1"""

STREAM_KNOWN = "select create_time from audit_event_stream"

EVENTS_BY_VERSION = """
select order_id, version, type, event_id, payload
from unnest($1::uuid[], $2::int[]) as wanted (order_id, version) join audit_order_events using (order_id, version)"""


NOW = "select now()"


async def slices(databases: Databases, since: datetime) -> AsyncIterator[list[UUID]]:
    """The ids of all orders, reservations and notifications since then, AT_ONCE or so at a time."""
    sample = await _ids(databases, 0, SPACE // SAMPLE - 1, since)
    count = 1 + len(sample) * SAMPLE // AT_ONCE
    for number in range(count):
        ids = await _ids(databases, number * SPACE // count, (number + 1) * SPACE // count - 1, since)
        if ids:
            yield ids


async def _ids(databases: Databases, first: int, last: int, since: datetime) -> list[UUID]:
    found = await asyncio.gather(
        *(databases.read(service, _IDS[service], UUID(int=first), UUID(int=last), since) for service in SERVICES)
    )
    return list({row[0] for rows in found for row in rows})


async def cases(databases: Databases, ids: Collection[UUID], *, payloads: bool) -> list[Case]:
    """Everything there is about these orders."""

    async def read_orders() -> tuple[Sequence[Row], Sequence[Row]]:
        async with databases.at_one_moment("order"):
            return await databases.read("order", _ORDERS, ids), await databases.read("order", _EVENTS, ids, payloads)

    (orders, events), reservations, notifications = await asyncio.gather(
        read_orders(),
        databases.read("inventory", _RESERVATIONS, ids),
        databases.read("notification", _NOTIFICATIONS, ids),
    )
    cases = {id: Case(id) for id in ids}
    for row in orders:
        cases[row["order_id"]].order = row
    for row in events:
        cases[row["order_id"]].events.append(row)
    for row in reservations:
        cases[row["reservation_id"]].reservation = row
    for row in notifications:
        cases[row["order_id"]].notifications.append(row)
    return list(cases.values())
