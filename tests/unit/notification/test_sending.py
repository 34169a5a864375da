"""What follows from what a mail server said."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from shop.notification.v1.config_pb2 import NotificationConfig

from services.chassis.database import DatabaseUnavailable
from services.notification.domain import (
    Accepted,
    Attempt,
    Outcome,
    Patience,
    Postponed,
    Refused,
    State,
    Verdict,
    judge,
)
from services.notification.letters import letter
from services.notification.mail import Sender
from tests.support.notification import MemoryNotifications, placed

PATIENCE = Patience(timedelta(seconds=1), timedelta(minutes=10), timedelta(hours=24))
NEWS = placed()
FIRST = Attempt(
    notification_id=NEWS.notification_id,
    order_id=NEWS.order_id,
    kind=NEWS.kind,
    recipient=NEWS.recipient,
    letter=letter(NEWS),
    create_time=datetime(2026, 11, 24, tzinfo=UTC),
    number=1,
    tries=1,
    tried_for=timedelta(),
    traceparent=None,
)
THIRD = replace(FIRST, number=8, tries=3, tried_for=timedelta(seconds=4))
LAST = replace(FIRST, number=150, tries=150, tried_for=timedelta(hours=24))


@pytest.mark.parametrize(
    ("attempt", "outcome", "verdict"),
    [
        (FIRST, Accepted(), Verdict(FIRST, State.SENT)),
        (LAST, Accepted(), Verdict(LAST, State.SENT)),
        (FIRST, Refused("550 no"), Verdict(FIRST, State.FAILED, error="550 no")),
        (FIRST, Postponed("451 soon"), Verdict(FIRST, State.READY, timedelta(seconds=1), "451 soon")),
        (THIRD, Postponed("lost", True), Verdict(THIRD, State.READY, timedelta(seconds=4), "lost", in_doubt=True)),
        (LAST, Postponed("451 soon"), Verdict(LAST, State.FAILED, error="given up: 451 soon")),
        (LAST, Postponed("lost", True), Verdict(LAST, State.FAILED, error="given up: lost", in_doubt=True)),
    ],
)
def test_the_answer_of_the_mail_server_decides(attempt: Attempt, outcome: Outcome, verdict: Verdict) -> None:
    assert judge(attempt, outcome, PATIENCE, jitter=0) == verdict


@pytest.mark.parametrize(
    ("attempt", "jitter", "pause_s"),
    [(1, 0, 1), (2, 0, 2), (5, 0, 16), (5, 0.5, 12), (5, 1, 8), (11, 0, 600), (100_000, 0, 600), (100_000, 1, 300)],
)
def test_pauses_double_up_to_the_longest_and_jitter_takes_up_to_half(
    attempt: int, jitter: float, pause_s: float
) -> None:
    assert PATIENCE.pause(attempt, jitter) == timedelta(seconds=pause_s)


@dataclass(slots=True)
class AwayForAMoment(MemoryNotifications):
    """Cannot be reached for the first two times that something is to be settled."""

    away: int = 2

    async def settle(self, verdicts: Sequence[Verdict]) -> None:
        if self.away:
            self.away -= 1
            raise DatabaseUnavailable
        await MemoryNotifications.settle(self, verdicts)


@dataclass(slots=True)
class Server:
    """Says the same to every mail."""

    says: Outcome = field(default_factory=Accepted)
    host_and_port = ("mail.example.com", 25)

    async def send(self, attempt: Attempt, until: float) -> Outcome:
        del attempt, until
        return self.says

    async def hang_up(self) -> None:
        """Keeps nothing."""


async def test_what_was_sent_is_written_down_as_soon_as_the_database_is_back() -> None:
    kept = AwayForAMoment()
    await kept.keep([(NEWS, letter(NEWS))])
    sender = Sender(kept, Server(), NotificationConfig)

    claimed = await sender.claim(1)
    await sender.settle(list(zip(claimed, await sender.act(claimed), strict=True)))

    assert kept.rows[NEWS.notification_id].state is State.SENT


@dataclass(slots=True)
class Leases(MemoryNotifications):
    """Remembers for how long it was asked to lease."""

    asked: list[timedelta] = field(default_factory=list[timedelta])

    async def claim(self, most: int, lease: timedelta) -> Sequence[Attempt]:
        self.asked.append(lease)
        return await MemoryNotifications.claim(self, most, lease)


async def test_a_lease_outlives_the_conversation_however_long_that_may_be_now() -> None:
    kept, config = Leases(), NotificationConfig()
    sender = Sender(kept, Server(), lambda: config)

    for timeout_s in (1, 300, 2):
        config.smtp_timeout.FromSeconds(timeout_s)
        await sender.claim(1)

    conversations = [timedelta(seconds=timeout_s) for timeout_s in (1, 300, 2)]
    assert all(lease > timeout for lease, timeout in zip(kept.asked, conversations, strict=True))


async def test_pauses_and_patience_are_those_of_the_configuration_at_that_moment() -> None:
    kept, never = MemoryNotifications(), Duration(seconds=86_400)
    config = NotificationConfig(mail_backoff_initial=never, mail_backoff_max=never, mail_give_up=never)
    sender = Sender(kept, Server(Postponed("451 soon")), lambda: config)

    async def tried() -> State:
        """What became of a new mail at its first attempt."""
        news = placed()
        await kept.keep([(news, letter(news))])
        claimed = await sender.claim(1)
        await sender.settle(list(zip(claimed, await sender.act(claimed), strict=True)))
        return kept.rows[news.notification_id].state

    assert await tried() is State.READY
    assert not await sender.claim(1)  # it waits for half a day at least

    config.mail_backoff_max.Clear()
    assert await tried() is State.READY
    assert len(await sender.claim(1)) == 1

    config.mail_give_up.Clear()
    assert await tried() is State.FAILED
