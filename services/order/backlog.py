"""What waits in Order's tables: events to be sent, orders to be settled."""

from services.chassis.database import Database
from services.chassis.looking import Look
from services.chassis.metrics import Gauge
from services.order.domain import State

_unsent = Gauge("shop.order.events.unsent", "{event}", "Events that are not in the stream yet, counted up to 10,000.")
_unsent_age = Gauge("shop.order.events.unsent.age", "s", "How long the oldest of them waits.")
_unsettled = Gauge(
    "shop.order.unsettled", "{order}", "Orders that Inventory does not know of yet, counted up to 10,000.", "state"
)
_unsettled_age = Gauge("shop.order.unsettled.age", "s", "How long the oldest of them is in its state.", "state")

# Reads the two small indexes of what waits, and those rows; never more than the limit.
BACKLOG = """
with unsent as (
  select coalesce(unsent_time, create_time) as since from order_events
  where sent_time is null and type is not null order by claimed_until limit 10000
), unsettled as (
  select state, update_time as since from orders where settled_time is null order by claimed_until limit 10000
)
select 'events' as what, count(*) as waiting, coalesce(extract(epoch from now() - min(since)), 0)::float as age_s
from unsent
union all
select state, count(*), extract(epoch from now() - min(since))::float from unsettled group by state"""


def backlog(database: Database) -> Look:
    """Asks for it."""

    async def look() -> None:
        told = {row["what"]: row for row in await database.fetch(BACKLOG)}
        events = told.pop("events")
        _unsent.set(events["waiting"])
        _unsent_age.set(max(0.0, events["age_s"]))
        for state in State:
            row = told.get(state.value)
            _unsettled.set(row["waiting"] if row else 0, state.value)
            _unsettled_age.set(max(0.0, row["age_s"]) if row else 0.0, state.value)

    return Look("backlog", look, _unsent, _unsent_age, _unsettled, _unsettled_age)
