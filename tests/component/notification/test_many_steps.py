"""Whatever senders, events and operators do in whatever order: what customers get stays what the tables say."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.chassis.database import Database, Record
from services.notification.domain import Attempt, DeadLetterNotFound, Garbled, Kind, News, State, Verdict
from services.notification.letters import letter
from services.notification.store import SqlNotifications
from tests.support.notification import A_WHILE, NO_TIME, cancelled, keep, placed, rejected
from tests.support.postgres import Postgres

KIND = st.sampled_from(Kind)
TIME = st.sampled_from([NO_TIME, A_WHILE])
STEP = st.one_of(
    st.tuples(st.just("hear"), KIND),
    st.tuples(st.just("bury"), KIND),
    # A sender sends at once what it has claimed; its word to the table may come late, or never.
    st.tuples(st.just("send"), TIME, st.sampled_from(["accepted", "refused", "put off", "lost"])),
    st.tuples(st.just("settle"), st.integers(0, 5), TIME),
    st.tuples(st.just("redrive"), KIND),
    st.tuples(st.just("redrive event"), KIND),
    st.tuples(st.just("discard"), KIND),
)
"""What may happen about one order. Times: for how long a lease or a pause holds, none or for the whole test."""

FINAL = {"SENT", "SUPERSEDED"}


@dataclass(slots=True)
class Story:
    """What happened to one order, and what its customer got."""

    kept: SqlNotifications
    news: dict[Kind, News]
    attempts: list[tuple[Attempt, str]] = field(default_factory=list[tuple[Attempt, str]])
    """With what the mail server said."""
    numbers: dict[UUID, int] = field(default_factory=dict[UUID, int])
    copies: Counter[UUID] = field(default_factory=Counter[UUID])
    ended: dict[UUID, str] = field(default_factory=dict[UUID, str])

    async def take(self, step: tuple[object, ...]) -> None:
        match step:
            case "hear", Kind() as kind:
                await keep(self.kept, self.news[kind])
            case "bury", Kind() as kind:
                await self.kept.bury([self.garbled(kind)])
            case "send", timedelta() as lease, str() as said:
                await self.send(lease, said)
            case "settle", int() as number, timedelta() as pause if self.attempts:
                await self.kept.settle([verdict(*self.attempts[number % len(self.attempts)], pause)])
            case "redrive", Kind() as kind:
                await self.end(self.kept.send_again(self.news[kind].notification_id))
            case "redrive event", Kind() as kind:
                news = self.news[kind]
                await self.end(self.kept.hear_again(self.garbled(kind).dead_letter_id, news, letter(news)))
            case "discard", Kind() as kind:
                await self.end(self.kept.discard(self.news[kind].notification_id))
            case _:
                pass

    def garbled(self, kind: Kind) -> Garbled:
        return Garbled(self.news[kind].event, "of an older version")

    async def send(self, lease: timedelta, said: str) -> None:
        for attempt in await self.kept.claim(1, lease):
            assert attempt.number > self.numbers.get(attempt.notification_id, 0), "a number was given twice"
            self.numbers[attempt.notification_id] = attempt.number
            self.copies[attempt.notification_id] += said in {"accepted", "lost"}
            self.attempts.append((attempt, said))

    async def end(self, ending: Awaitable[object]) -> None:
        with suppress(DeadLetterNotFound):
            await ending


def verdict(attempt: Attempt, said: str, pause: timedelta) -> Verdict:
    match said:
        case "accepted":
            return Verdict(attempt, State.SENT)
        case "refused":
            return Verdict(attempt, State.FAILED, error=said)
        case _:
            return Verdict(attempt, State.READY, pause, said, in_doubt=said == "lost")


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[Database]:
    async with postgres.database("services.notification") as database:
        yield database


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEP, min_size=8, max_size=24))
async def test_no_mail_is_lost_doubled_in_silence_or_sent_after_its_end(
    database: Database, steps: list[tuple[object, ...]]
) -> None:
    await database.execute("truncate notifications, dead_letters")
    first = placed()
    story = Story(SqlNotifications(database), {one.kind: one for one in (first, rejected(first), cancelled(first))})
    for step in [("hear", Kind.ORDER_PLACED), *steps]:
        await story.take(step)
        await holds(story, database)

    await database.execute("update notifications set claimable_time = now() where state in ('READY', 'SENDING')")
    while await database.fetchval("select exists (select from notifications where state in ('READY', 'SENDING'))"):
        for attempt in await story.kept.claim(16, A_WHILE):
            story.copies[attempt.notification_id] += 1
            await story.kept.settle([Verdict(attempt, State.SENT)])
    await holds(story, database)
    rows = await database.fetch("select id, state from notifications")
    assert {row["state"] for row in rows} <= {"FAILED", *FINAL}
    assert all(story.copies[row["id"]] for row in rows if row["state"] == "SENT")


async def holds(story: Story, database: Database) -> None:
    """What is true at every moment."""
    rows: list[Record] = await database.fetch(
        "select notifications.*, dead_letters.state as dead from notifications"
        " left join dead_letters on notification_id = notifications.id"
    )
    assert [row["state"] for row in rows].count("SENDING") <= 1, "two of one order are under way"
    for row in rows:
        assert story.ended.get(row["id"], row["state"]) == row["state"], "an end was no end"
        if row["state"] in FINAL:
            story.ended[row["id"]] = row["state"]
        assert (row["state"] == "FAILED") == (row["dead"] in {"OPEN", "DISCARDED"}), "nobody knows of a failure"
        assert story.copies[row["id"]] <= 1 + row["possible_duplicates"], "a copy was not counted"
