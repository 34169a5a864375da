"""Orders to choose from."""

from dataclasses import dataclass
from uuid import UUID

from services.story.databases import Readable, Row

MOST = 50
# Orders have no index by time but one of ranges, which finds those of a short time quickly: so a short time is tried
# first, and a longer one only where too few are found.
NEWEST = """
select order_id, state, state_reason, email, customer, total_currency, total_units, total_nanos, create_time,
  settled_time
from audit_orders
where create_time > now() - make_interval(secs => $1::float8)
  and ($2::uuid is null
    or (create_time, order_id) < (select create_time, order_id from audit_orders where order_id = $2))
  and ($3::text = '' or email = $3 or customer = $3) and ($4::text = '' or state = $4)
order by create_time desc, order_id desc limit $5::int"""
WITHIN_S = (600.0, 86_400.0, 100 * 365 * 86_400.0)


@dataclass(frozen=True, slots=True)
class Wanted:
    customer: str = ""
    """An e-mail address, or the customer's id; empty: of everybody."""
    state: str = ""
    before: UUID | None = None
    """Older than this order; of one that is not there none is."""


async def newest(databases: Readable, wanted: Wanted) -> list[Row]:
    """At most MOST, the newest first."""
    rows = list[Row]()
    for within_s in WITHIN_S:
        rows = await databases.read("order", NEWEST, within_s, wanted.before, wanted.customer, wanted.state, MOST)
        if len(rows) == MOST:
            break
    return rows
