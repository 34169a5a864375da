"""What waits in Inventory's tables: holds that are neither confirmed nor given back."""

from services.chassis.database import Database
from services.chassis.looking import Look
from services.chassis.metrics import Gauge

_holds = Gauge(
    "shop.inventory.holds", "{reservation}", "Holds that stand, counted up to 10,000: running or overdue.", "state"
)
_overdue = Gauge("shop.inventory.holds.overdue.age", "s", "How long ago the time of the oldest of them was over.")

# Reads the index `overdue` alone. Confirmed, expired and released ones are all that ever were: those are counted as
# they become so (shop.inventory.reservations).
BACKLOG = """
with held as (
  select expire_time from reservations where state = 'HELD' order by expire_time limit 10000
)
select count(*) filter (where expire_time > now()) as running,
  count(*) filter (where expire_time <= now()) as overdue,
  coalesce(extract(epoch from now() - min(expire_time)), 0)::float as overdue_s
from held"""


def backlog(database: Database) -> Look:
    """Asks for it."""

    async def look() -> None:
        told = await database.fetchrow(BACKLOG)
        assert told  # an aggregate is always there
        _holds.set(told["running"], "running")
        _holds.set(told["overdue"], "overdue")
        _overdue.set(max(0.0, told["overdue_s"]))

    return Look("backlog", look, _holds, _overdue)
