"""What Order tells everybody: the table of events, and the stream on NATS that it goes to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.chassis.bus.connection import Bus
from services.chassis.database import Database
from services.chassis.outbox import LEASE_S, Event, Relay
from services.chassis.worker import Failed
from services.order.contract import EVENT_TYPES

STREAM = "ORDERS"
LOST_STREAM_S = 600.0
"""For a look at all events there ever were, once in the life of a stream."""

# The oldest unsent event of each order, and no other. Statistics are often from when nothing was unsent, and then lead
# PostgreSQL astray: `offset 0` has it look for earlier ones event by event instead of joining all with all, `infinity`
# in place of `is null` keeps it from the index of what is unsent, all of which it would read for each event.
CLAIM_EVENTS = """
with due as (
  select order_id, version from order_events e
  where sent_time is null and type is not null and claimed_until <= now()
    and not exists (
      select from order_events earlier
      where earlier.order_id = e.order_id and earlier.version < e.version
        and coalesce(earlier.sent_time, 'infinity') = 'infinity' and earlier.type is not null
      offset 0
    )
  order by claimed_until
  limit $1
  for update skip locked
)
update order_events e set claimed_until = now() + $2::float * interval '1 s', attempts = attempts + 1
from due where e.order_id = due.order_id and e.version = due.version
returning e.*"""

_SETTLE_EVENTS = """
with sent as (
  update order_events e set sent_time = now(), last_error = null
  from unnest($1::uuid[], $2::int[], $3::timestamptz[]) as s(order_id, version, lease)
  where e.order_id = s.order_id and e.version = s.version and e.claimed_until = s.lease
)
update order_events e set last_error = f.error,
  claimed_until = now() + least(interval '2 s', interval '50 ms' * 2 ^ least(attempts, 10)) * (0.8 + 0.4 * random())
from unnest($4::uuid[], $5::int[], $6::timestamptz[], $7::text[]) as f(order_id, version, lease, error)
where e.order_id = f.order_id and e.version = f.version and e.claimed_until = f.lease"""

# One replica finds that the stream is another one; who asks at the same time waits for the row, and then finds nothing.
# Leases end too, also of one who is frozen and would mark it later: what is being sent may have gone to the stream that
# was lost. All are due again in the order in which they were written, or each claim would look at many later ones of
# orders whose first one still waits.
_STREAM_CREATED = """
with lost as (
  update event_stream set create_time = $1 where create_time is distinct from $1 returning true
), unsent as (
  update order_events e
  set sent_time = null, resends = resends + (sent_time is not null)::int, claimed_until = e.create_time,
    unsent_time = case when sent_time is null then unsent_time else now() end
  from lost
  where type is not null and claimed_until <> e.create_time
    and (sent_time is null or e.create_time > now() - interval '1 day')
  returning true
)
select count(*) from unsent"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedEvent(Event):
    """An event whose sending is ours until `lease`."""

    order_id: UUID
    version: int
    lease: datetime


class SqlEvents:
    """Reads order_events as the relay needs it (chassis.outbox.Events)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim_events(self, most: int, lease_s: float = LEASE_S) -> Sequence[ClaimedEvent]:
        return [
            ClaimedEvent(
                id=record["event_id"],
                type=record["type"],
                time=record["create_time"],
                payload=record["payload"],
                traceparent=record["traceparent"],
                about=f"orders/{record['order_id']}",
                resends=record["resends"],
                order_id=record["order_id"],
                version=record["version"],
                lease=record["claimed_until"],
            )
            for record in await self._database.fetch(CLAIM_EVENTS, most, lease_s)
        ]

    async def settle_events(self, outcomes: Sequence[tuple[ClaimedEvent, Failed | None]]) -> None:
        sent = [event for event, failed in outcomes if failed is None]
        unsent = [(event, failed.error) for event, failed in outcomes if failed is not None]
        await self._database.execute(
            _SETTLE_EVENTS,
            [event.order_id for event in sent],
            [event.version for event in sent],
            [event.lease for event in sent],
            [event.order_id for event, _ in unsent],
            [event.version for event, _ in unsent],
            [event.lease for event, _ in unsent],
            [error for _, error in unsent],
        )

    async def stream_created(self, time: datetime) -> int:
        unsent: int = await self._database.fetchval(_STREAM_CREATED, time, timeout_s=LOST_STREAM_S)
        return unsent


def relay(database: Database, bus: Bus) -> Relay[ClaimedEvent]:
    """Sends the events of the table to the stream, which it makes where it is missing."""
    return Relay(SqlEvents(database), bus, stream=STREAM, subjects=EVENT_TYPES, source="/shop/order")
