"""What waits in Notification: events on NATS, mails to be sent, dead letters for a person."""

from services.chassis.bus.connection import Bus
from services.chassis.database import Database
from services.chassis.looking import Look
from services.chassis.metrics import Gauge
from services.notification.domain import State

_waiting = Gauge("shop.notification.mails.waiting", "{mail}", "Mails that are to be sent, up to 10,000.", "state")
_waiting_age = Gauge("shop.notification.mails.waiting.age", "s", "How long the oldest of them is known.")
_lag = Gauge("shop.notification.sender.lag", "s", "How long the earliest mail that is due waits for a sender.")
_dead = Gauge("shop.notification.dead_letters", "{letter}", "Dead letters that wait for a person, up to 10,000.")
_pending = Gauge("shop.notification.events.pending", "{event}", "Events in the stream that were not delivered yet.")
_unacknowledged = Gauge(
    "shop.notification.events.unacknowledged", "{event}", "Events that were delivered and are not in a table yet."
)

# Reads the indexes `due` and `open_dead_letters`, and of the former the rows; never more than the limit.
BACKLOG = """
with waiting as (
  select state, create_time, claimable_time from notifications
  where state in ('READY', 'SENDING') order by claimable_time limit 10000
), dead as (
  select from dead_letters where state = 'OPEN' limit 10000
)
select count(*) filter (where state = 'READY') as ready, count(*) filter (where state = 'SENDING') as sending,
  coalesce(extract(epoch from now() - min(create_time)), 0)::float as age_s,
  coalesce(extract(epoch from now() - min(claimable_time)), 0)::float as lag_s, (select count(*) from dead) as dead
from waiting"""


def backlog(database: Database) -> Look:
    """Asks the tables for it."""

    async def look() -> None:
        told = await database.fetchrow(BACKLOG)
        assert told  # an aggregate is always there
        _waiting.set(told["ready"], State.READY.value)
        _waiting.set(told["sending"], State.SENDING.value)
        _waiting_age.set(max(0.0, told["age_s"]))
        _lag.set(max(0.0, told["lag_s"]))
        _dead.set(told["dead"])

    return Look("backlog", look, _waiting, _waiting_age, _lag, _dead)


def consumer_lag(bus: Bus, stream: str, durable: str) -> Look:
    """Asks NATS for it."""

    async def look() -> None:
        if (behind := await bus.behind(stream, durable)) is None:
            _pending.forget()
            _unacknowledged.forget()
            return
        _pending.set(behind.undelivered)
        _unacknowledged.set(behind.unacknowledged)

    return Look("consumer lag", look, _pending, _unacknowledged)
