"""Notifications and dead letters in PostgreSQL: one statement per step."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg

from services.chassis.database import Database, Record
from services.notification.domain import (
    Attempt,
    DeadLetter,
    DeadLetterNotFound,
    Event,
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

_HEARD = """id, order_id, kind, version, customer, recipient, subject, body, html, event_type, event_id, traceparent,
  news_time"""

# Two unique keys stand for one fact (the id is made from order and kind), so no target is named.
_KEEP = f"""
insert into notifications ({_HEARD})
select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
  $9::text[], $10::text[], $11::text[], $12::text[], $13::timestamptz[])
on conflict do nothing"""  # noqa: S608  our own columns

_BURY = """
insert into dead_letters (id, event_type, event_id, headers, payload, reason, attempts)
select *, 1 from unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[], $5::bytea[], $6::text[])
on conflict do nothing"""

# Locks the rows that it takes and passes by what another sender has locked. A row that was taken between this
# statement's snapshot and its lock is looked at again under the lock, and is no longer due. The others of its order are
# described as not final: were they READY or SENDING, a planner that has not heard how many wait would look for them in
# the index `due`, and read all of it for each row.
CLAIM = """
with due as (
  select id, superseded, state = 'SENDING' as taken_over
  from notifications this
  cross join lateral (select state = 'READY' and exists (
    select from notifications newer
    where newer.order_id = this.order_id and newer.version > this.version and newer.state in ('SENDING', 'SENT')
  ) as superseded) fate
  where state in ('READY', 'SENDING') and claimable_time <= now() and (superseded or not exists (
    -- Its turn comes later: another one is under way, or an older one is due.
    select from notifications other
    where other.order_id = this.order_id and other.id <> this.id and other.state not in ('SENT', 'SUPERSEDED', 'FAILED')
      and case
        when other.claimable_time > now() then other.state = 'SENDING'
        -- What a dead sender left goes first. Of two about one version, which Order never says, one does.
        else (other.state <> 'SENDING', other.version, other.id) < (this.state <> 'SENDING', this.version, this.id)
      end
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
    possible_duplicates = possible_duplicates + taken_over::int
  from due where this.id = due.id
  returning this.id, order_id, kind, recipient, subject, body, html, traceparent, create_time, this.state, attempts,
    news_time, taken_over, attempts - attempts_before_redrive as tries, now() - first_attempt_time as tried_for
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
on conflict (id) do update set
  state = 'OPEN', reason = excluded.reason, attempts = excluded.attempts, create_time = now()"""

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

_SHOWN = "id, event_type, event_id, order_id, reason, attempts, create_time"

OPEN_PAGE = f"""
select {_SHOWN} from dead_letters
where state = 'OPEN'
  and (create_time, id) < (
    coalesce($2, 'infinity'::timestamptz), coalesce($3, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
  )
order by create_time desc, id desc
limit $1"""  # noqa: S608  our own columns

_EVENT_OF = """
select event_type, event_id, headers, payload from dead_letters
where id = $1 and state = 'OPEN' and notification_id is null"""

# The mail of an open dead letter is FAILED. Both lock the dead letter first: of two at once, the second finds it ended.
_SEND_AGAIN = f"""
with redriven as (
  update dead_letters set state = 'REDRIVEN' where id = $1 and state = 'OPEN' returning *
), ready as (
  update notifications this set
    state = 'READY',
    claimable_time = now(),
    first_attempt_time = null,
    attempts_before_redrive = this.attempts
  from redriven where this.id = redriven.notification_id
)
select {_SHOWN} from redriven"""  # noqa: S608  our own columns

_HEAR_AGAIN = f"""
with redriven as (
  update dead_letters set state = 'REDRIVEN', order_id = $3 where id = $1 and state = 'OPEN' returning *
), heard as (
  insert into notifications ({_HEARD})
  select $2::uuid, $3::uuid, $4::text, $5::bigint, $6::text, $7::text, $8::text, $9::text, $10::text, $11::text,
    $12::text, $13::text, $14::timestamptz
  from redriven
  on conflict do nothing
)
select {_SHOWN} from redriven"""  # noqa: S608  our own columns

_DISCARD = f"""
update dead_letters set state = 'DISCARDED' where id = $1 and state = 'OPEN'
returning {_SHOWN}"""  # noqa: S608  our own columns

_ENDED = f"select {_SHOWN} from dead_letters where id = $1 and state = $2"  # noqa: S608  our own columns

# What PostgreSQL says of a row that it will never take; a text can be too long for an index.
_FAULTS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)


class SqlNotifications:
    """Implements Inbox, Outgoing, History and DeadLetters."""

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
            rows = await self._database.fetch(CLAIM, most, lease)
        except asyncpg.UniqueViolationError:
            # Another sender took another one of the same order at the same moment: now it can be seen.
            rows = await self._database.fetch(CLAIM, most, lease)
        return [_attempt(row) for row in rows]

    async def settle(self, verdicts: Sequence[Verdict]) -> None:
        columns = zip(*map(_verdict, verdicts), strict=True)
        await self._database.execute(_SETTLE, *columns)

    async def page(self, customer: str, most: int, after: Place | None) -> Sequence[Notification]:
        rows = await self._database.fetch(PAGE, customer, most, *(after or (None, None)))
        return [_notification(row) for row in rows]

    async def open_page(self, most: int, after: Place | None) -> Sequence[DeadLetter]:
        rows = await self._database.fetch(OPEN_PAGE, most, *(after or (None, None)))
        return [_dead_letter(row) for row in rows]

    async def event_of(self, id: UUID) -> Event | None:
        row = await self._database.fetchrow(_EVENT_OF, id)
        return None if row is None else _event(row)

    async def send_again(self, id: UUID) -> DeadLetter:
        return await self._ended("REDRIVEN", _SEND_AGAIN, id)

    async def hear_again(self, id: UUID, news: News, letter: Letter) -> DeadLetter:
        try:
            return await self._ended("REDRIVEN", _HEAR_AGAIN, id, *_row((news, letter)))
        except _FAULTS as fault:
            raise Unkeepable(str(fault)) from fault

    async def discard(self, id: UUID) -> DeadLetter:
        return await self._ended("DISCARDED", _DISCARD, id)

    async def _ended(self, state: str, end: str, id: UUID, *more: object) -> DeadLetter:
        """Ends what is open. Read in a statement of its own: the first one's snapshot shows nobody else's end."""
        row = await self._database.fetchrow(end, id, *more) or await self._database.fetchrow(_ENDED, id, state)
        if row is None:
            raise DeadLetterNotFound(dead_letter=f"deadLetters/{id}")
        return _dead_letter(row)


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
        news.since,
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
        tries=row["tries"],
        tried_for=row["tried_for"],
        traceparent=row["traceparent"],
        since=row["news_time"],
        taken_over=row["taken_over"],
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


def _dead_letter(row: Record) -> DeadLetter:
    return DeadLetter(
        id=row["id"],
        event_type=row["event_type"],
        event_id=row["event_id"],
        order_id=row["order_id"],
        reason=row["reason"],
        attempts=row["attempts"],
        create_time=row["create_time"],
    )


def _event(row: Record) -> Event:
    """As it came; of its trace, what it brought."""
    headers = row["headers"]
    return Event(row["event_type"], row["event_id"], headers, row["payload"], headers.get("traceparent"))
