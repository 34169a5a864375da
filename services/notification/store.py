"""Notifications and dead letters in PostgreSQL: one statement per step."""

from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from services.chassis.database import Database, Record
from services.notification.domain import (
    Attempt,
    Garbled,
    Kind,
    Letter,
    News,
    Notification,
    State,
    Unkeepable,
    Verdict,
)
from services.notification.ports import Place

# Two unique keys stand for one fact (the id is made from order and kind), so no target is named.
_KEEP = """
insert into notifications
  (id, order_id, kind, version, customer, recipient, subject, body, html, event_type, event_id, traceparent)
select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
  $9::text[], $10::text[], $11::text[], $12::text[])
on conflict do nothing"""

_BURY = """
insert into dead_letters (id, event_type, event_id, headers, payload, reason, attempts)
select *, 1 from unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[], $5::bytea[], $6::text[])
on conflict do nothing"""

# Locks the rows that it takes and passes by what another sender has locked. A row that was taken between this
# statement's snapshot and its lock is looked at again under the lock, and is no longer due.
_CLAIM = """
with due as (
  select id, superseded
  from notifications this
  cross join lateral (select state = 'READY' and exists (
    select from notifications newer
    where newer.order_id = this.order_id and newer.version > this.version and newer.state in ('SENDING', 'SENT')
  ) as superseded) fate
  where state in ('READY', 'SENDING') and claimable_time <= now() and (superseded or not exists (
    -- Its turn comes later: another one is under way, or an older one is due.
    select from notifications other
    where other.order_id = this.order_id and other.id <> this.id and other.state in ('READY', 'SENDING')
      and case when other.claimable_time > now() then other.state = 'SENDING' else other.version < this.version end
  ))
  order by claimable_time
  limit $1
  for update of this skip locked
), taken as (
  update notifications this set
    state = case when superseded then 'SUPERSEDED' else 'SENDING' end,
    claimable_time = now() + $2::interval,
    attempts = attempts + (not superseded)::int,
    first_attempt_time = case when superseded then first_attempt_time else coalesce(first_attempt_time, now()) end,
    possible_duplicates = possible_duplicates + (state = 'SENDING')::int
  from due where this.id = due.id
  returning this.id, order_id, kind, recipient, subject, body, html, traceparent, create_time, this.state, attempts,
    now() - first_attempt_time as tried_for
)
select * from taken where state = 'SENDING'"""

# The number of the attempt says whose claim it is.
_SETTLE = """
with settled as (
  update notifications this set
    state = verdict.state,
    claimable_time = now() + pause,
    last_error = error,
    possible_duplicates = possible_duplicates + in_doubt::int,
    send_time = case when verdict.state = 'SENT' then now() end
  from unnest($1::uuid[], $2::int[], $3::text[], $4::interval[], $5::text[], $6::bool[])
    as verdict (id, attempt, state, pause, error, in_doubt)
  where this.id = verdict.id and this.state = 'SENDING' and attempts = attempt
  returning this.id, order_id, event_type, event_id, this.state, last_error, attempts
)
insert into dead_letters (id, notification_id, order_id, event_type, event_id, reason, attempts)
select id, id, order_id, event_type, event_id, last_error, attempts from settled where state = 'FAILED'
on conflict (id) do update set reason = excluded.reason, attempts = excluded.attempts"""

# One comparison with or without a place: a plan for any arguments makes a filter of "no place, or behind it", and reads
# all that lies before the page.
PAGE = """
select id, order_id, kind, customer, recipient, subject, state, create_time, send_time from notifications
where customer = $1
  and (create_time, id) < (
    coalesce($3, 'infinity'::timestamptz), coalesce($4, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
  )
order by create_time desc, id desc
limit $2"""


# What PostgreSQL says of a row that it will never take; a text can be too long for an index.
_FAULTS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)


class SqlNotifications:
    """Implements Inbox, Outgoing and History."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, letters: Sequence[tuple[News, Letter]]) -> None:
        """Locks nothing but the keys that it brings."""
        columns = zip(*map(_row, letters), strict=True)
        try:
            await self._database.execute(_KEEP, *columns)
        except _FAULTS as fault:
            raise Unkeepable(str(fault)) from fault

    async def bury(self, garbled: Sequence[Garbled]) -> None:
        columns = zip(*map(_grave, garbled), strict=True)
        await self._database.execute(_BURY, *columns)

    async def claim(self, most: int, lease: timedelta) -> Sequence[Attempt]:
        try:
            rows = await self._database.fetch(_CLAIM, most, lease)
        except asyncpg.UniqueViolationError:
            # Another sender took another one of the same order at the same moment: now it can be seen.
            rows = await self._database.fetch(_CLAIM, most, lease)
        return [_attempt(row) for row in rows]

    async def settle(self, verdicts: Sequence[Verdict]) -> None:
        columns = zip(*map(_verdict, verdicts), strict=True)
        await self._database.execute(_SETTLE, *columns)

    async def page(self, customer: str, most: int, after: Place | None) -> Sequence[Notification]:
        rows = await self._database.fetch(PAGE, customer, most, *(after or (None, None)))
        return [_notification(row) for row in rows]


def _row(kept: tuple[News, Letter]) -> tuple[object, ...]:
    news, letter = kept
    return (
        news.notification_id,
        news.order_id,
        news.kind.value,
        news.version,
        news.customer,
        news.recipient,
        letter.subject,
        letter.text,
        letter.html,
        news.event.type,
        news.event.id,
        news.event.traceparent,
    )


def _grave(garbled: Garbled) -> tuple[object, ...]:
    event = garbled.event
    headers = {_text(name): _text(value) for name, value in event.headers.items()}
    return garbled.dead_letter_id, _text(event.type), _text(event.id), headers, event.payload, _text(garbled.reason)


def _text(anything: str) -> str:
    """As PostgreSQL can hold it: no NUL, no half of a character."""
    return anything.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _attempt(row: Record) -> Attempt:
    return Attempt(
        notification_id=row["id"],
        order_id=row["order_id"],
        kind=Kind(row["kind"]),
        recipient=row["recipient"],
        letter=Letter(row["subject"], row["body"], row["html"]),
        create_time=row["create_time"],
        number=row["attempts"],
        tried_for=row["tried_for"],
        traceparent=row["traceparent"],
    )


def _verdict(verdict: Verdict) -> tuple[object, ...]:
    attempt, error = verdict.attempt, verdict.error
    return (
        attempt.notification_id,
        attempt.number,
        verdict.state.value,
        verdict.pause,
        None if error is None else _text(error),
        verdict.in_doubt,
    )


def _notification(row: Record) -> Notification:
    return Notification(
        id=row["id"],
        order_id=row["order_id"],
        kind=Kind(row["kind"]),
        customer=row["customer"],
        recipient=row["recipient"],
        subject=row["subject"],
        state=State(row["state"]),
        create_time=row["create_time"],
        send_time=row["send_time"],
    )
