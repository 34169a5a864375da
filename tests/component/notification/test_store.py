"""Every implementation of the ports keeps the same promises."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Protocol
from uuid import UUID, uuid4

import pytest

from services.chassis.database import Database
from services.notification.domain import (
    DeadLetter,
    DeadLetterNotFound,
    Event,
    Garbled,
    News,
    State,
    Unkeepable,
    Verdict,
)
from services.notification.letters import letter
from services.notification.ports import DeadLetters, History, Inbox, Outgoing
from services.notification.store import SqlNotifications
from tests.support.notification import (
    A_WHILE,
    NO_TIME,
    MemoryNotifications,
    cancelled,
    claimed,
    event,
    keep,
    placed,
    rejected,
)
from tests.support.postgres import Postgres


class Notifications(Inbox, Outgoing, History, DeadLetters, Protocol):
    pass


@pytest.fixture(scope="module")
async def tables(postgres: Postgres) -> AsyncIterator[Database]:
    async with postgres.database("services.notification") as database:
        yield database


@pytest.fixture(params=["memory", "sql"])
async def notifications(request: pytest.FixtureRequest, tables: Database) -> Notifications:
    if request.param == "memory":
        return MemoryNotifications()
    await tables.execute("truncate notifications, dead_letters")
    return SqlNotifications(tables)


async def state(history: History, news: News) -> State:
    [found] = [one for one in await history.page(news.customer, 100, None) if one.id == news.notification_id]
    return found.state


# --- Inbox ---


async def test_what_is_heard_twice_is_kept_once(notifications: Notifications) -> None:
    news = placed()

    await keep(notifications, news, news)
    await keep(notifications, news)

    [shown] = await notifications.page("ann", 10, None)
    assert (shown.order_id, shown.kind, shown.state, shown.send_time) == (news.order_id, news.kind, State.READY, None)
    assert (shown.recipient, shown.subject) == (news.recipient, letter(news).subject)
    assert len(await claimed(notifications)) == 1


async def test_news_at_fault_keeps_nothing_of_its_batch(notifications: Notifications) -> None:
    with pytest.raises(Unkeepable):
        await keep(notifications, placed(), placed(customer="\0"))

    assert not await notifications.page("ann", 10, None)


async def test_a_page_holds_the_customers_own_newest_first_and_the_next_begins_behind_it(
    notifications: Notifications,
) -> None:
    anns = [placed(customer="ann") for _ in range(5)]
    await keep(notifications, *anns[:3], placed(customer="bob"))
    await keep(notifications, *anns[3:])

    first = await notifications.page("ann", 3, None)
    await keep(notifications, placed(customer="ann"))
    second = await notifications.page("ann", 3, (first[-1].create_time, first[-1].id))

    assert [one.order_id for one in [*first, *second]] == [news.order_id for news in reversed(anns)]


# --- The sender's table ---

type Ending = Callable[[News], News]


@pytest.fixture(params=[rejected, cancelled])
def newer_than(request: pytest.FixtureRequest) -> Ending:
    """What may follow when an order was placed."""
    ending: Ending = request.param
    return ending


async def test_an_attempt_has_all_that_is_needed_to_send(notifications: Notifications) -> None:
    news = replace(placed(), event=event(traceparent="00-ab-cd-01"))
    await keep(notifications, news)

    [attempt] = await claimed(notifications)

    assert (attempt.notification_id, attempt.order_id, attempt.kind) == (news.notification_id, news.order_id, news.kind)
    assert (attempt.recipient, attempt.letter, attempt.traceparent) == (news.recipient, letter(news), "00-ab-cd-01")
    assert (attempt.number, attempt.tried_for) == (1, NO_TIME)
    assert (attempt.since, attempt.taken_over) == (news.since, False)


async def test_nobody_takes_what_somebody_is_sending(notifications: Notifications) -> None:
    await keep(notifications, placed())
    await claimed(notifications)

    assert not await claimed(notifications)


async def test_no_more_are_claimed_than_asked_for(notifications: Notifications) -> None:
    await keep(notifications, *(placed() for _ in range(5)))

    assert len(await notifications.claim(3, A_WHILE)) == 3
    assert len(await notifications.claim(3, A_WHILE)) == 2


async def test_an_order_is_told_one_thing_at_a_time_the_oldest_first(
    notifications: Notifications, newer_than: Ending
) -> None:
    first = placed()
    second = newer_than(first)
    await keep(notifications, second, first)

    [attempt] = await claimed(notifications)
    assert attempt.kind is first.kind
    assert not await claimed(notifications)

    await notifications.settle([Verdict(attempt, State.SENT)])
    [attempt] = await claimed(notifications)
    assert attempt.kind is second.kind


async def test_two_mails_about_one_version_of_an_order_go_out_one_after_the_other(notifications: Notifications) -> None:
    """Order never says so, and whoever else does must not stop the mails of all others."""
    first = placed()
    await keep(notifications, rejected(first), cancelled(first), other := placed())

    taken = await claimed(notifications)
    assert len(taken) == 2
    assert other.order_id in {attempt.order_id for attempt in taken}

    await notifications.settle([Verdict(attempt, State.SENT) for attempt in taken])
    assert len(await claimed(notifications)) == 1


@pytest.mark.parametrize("left", [rejected, cancelled])
async def test_what_a_dead_sender_left_goes_before_another_about_the_same_version(
    notifications: Notifications, left: Ending
) -> None:
    first = placed()
    await keep(notifications, left(first))
    await claimed(notifications, lease=NO_TIME)
    await keep(notifications, rejected(first), cancelled(first))

    [attempt] = await claimed(notifications)

    assert attempt.kind is left(first).kind


async def test_one_that_waits_out_a_pause_holds_up_no_newer_one(
    notifications: Notifications, newer_than: Ending
) -> None:
    first = placed()
    await keep(notifications, first, newer_than(first))
    [attempt] = await claimed(notifications)
    await notifications.settle([Verdict(attempt, State.READY, A_WHILE, "451 soon")])

    [attempt] = await claimed(notifications)

    assert attempt.kind is newer_than(first).kind


@pytest.mark.parametrize("newer", [State.SENDING, State.SENT])
async def test_what_a_newer_one_has_overtaken_is_not_sent(
    notifications: Notifications, newer_than: Ending, newer: State
) -> None:
    first = placed()
    second = newer_than(first)
    await keep(notifications, second)
    [attempt] = await claimed(notifications)
    if newer is State.SENT:
        await notifications.settle([Verdict(attempt, State.SENT)])
    await keep(notifications, first)

    assert not await claimed(notifications)
    assert await state(notifications, first) is State.SUPERSEDED
    assert await state(notifications, second) is newer


async def test_a_newer_one_that_failed_or_waits_supersedes_nothing(
    notifications: Notifications, newer_than: Ending
) -> None:
    first = placed()
    await keep(notifications, newer_than(first))
    [attempt] = await claimed(notifications)
    await notifications.settle([Verdict(attempt, State.FAILED, error="550 no")])
    await keep(notifications, first)

    [attempt] = await claimed(notifications)

    assert attempt.kind is first.kind


async def test_a_pause_is_waited_out(notifications: Notifications) -> None:
    await keep(notifications, placed())
    [attempt] = await claimed(notifications)

    await notifications.settle([Verdict(attempt, State.READY, A_WHILE, "451 soon")])
    assert not await claimed(notifications)


async def test_attempts_are_numbered_and_timed_from_the_first(notifications: Notifications) -> None:
    await keep(notifications, placed())
    for number in (1, 2, 3):
        [attempt] = await claimed(notifications)
        assert attempt.number == number
        await notifications.settle([Verdict(attempt, State.READY, NO_TIME, "451 soon")])
    [attempt] = await claimed(notifications)
    assert attempt.tried_for > NO_TIME


async def test_what_a_dead_sender_left_is_taken_over_and_only_the_last_claim_counts(
    notifications: Notifications,
) -> None:
    news = placed()
    await keep(notifications, news)
    [left] = await claimed(notifications, lease=NO_TIME)
    [taken_over] = await claimed(notifications)
    assert (taken_over.number, taken_over.taken_over) == (2, True)

    await notifications.settle([Verdict(left, State.FAILED, error="550 no")])
    assert await state(notifications, news) is State.SENDING

    await notifications.settle([Verdict(taken_over, State.SENT)])
    [shown] = await notifications.page("ann", 1, None)
    assert shown.state is State.SENT
    assert shown.send_time


async def test_what_is_settled_stays_so(notifications: Notifications) -> None:
    news = placed()
    await keep(notifications, news)
    [attempt] = await claimed(notifications)
    await notifications.settle([Verdict(attempt, State.SENT)])

    await notifications.settle([Verdict(attempt, State.READY, NO_TIME, "late")])

    assert await state(notifications, news) is State.SENT
    assert not await claimed(notifications)


async def test_outcomes_of_a_batch_are_each_their_own(notifications: Notifications) -> None:
    good, bad = placed(), placed()
    await keep(notifications, good, bad)
    verdicts = [
        Verdict(attempt, State.SENT)
        if attempt.notification_id == good.notification_id
        else Verdict(attempt, State.FAILED, error="550 no such user")
        for attempt in await claimed(notifications)
    ]

    await notifications.settle(verdicts)

    assert await state(notifications, good) is State.SENT
    assert await state(notifications, bad) is State.FAILED


# --- Dead letters ---


async def given_up(notifications: Notifications, news: News, reason: str = "550 no such user") -> UUID:
    """A mail that was tried once."""
    await keep(notifications, news)
    [attempt] = await claimed(notifications)
    await notifications.settle([Verdict(attempt, State.FAILED, error=reason)])
    return news.notification_id


async def buried(notifications: Notifications, event: Event) -> UUID:
    """An event that some version did not understand."""
    garbled = Garbled(event, "no protobuf")
    await notifications.bury([garbled])
    return garbled.dead_letter_id


async def waiting(notifications: Notifications) -> list[UUID]:
    return [dead.id for dead in await notifications.open_page(100, None)]


async def test_dead_letters_are_listed_newest_first_and_the_next_page_begins_behind_the_last(
    notifications: Notifications,
) -> None:
    news, garbled = placed(), event(payload=b"\xff")
    ids = [await given_up(notifications, news), await buried(notifications, garbled)]
    ids += [await given_up(notifications, placed()) for _ in range(3)]

    first = await notifications.open_page(3, None)
    await given_up(notifications, placed())
    second = await notifications.open_page(3, (first[-1].create_time, first[-1].id))

    assert [dead.id for dead in [*first, *second]] == ids[::-1]
    of_event, of_mail = second
    times = of_event.create_time, of_mail.create_time
    assert of_event == DeadLetter(ids[1], garbled.type, garbled.id, None, "no protobuf", 1, times[0])
    said = news.event
    assert of_mail == DeadLetter(ids[0], said.type, said.id, news.order_id, "550 no such user", 1, times[1])


async def test_a_redriven_mail_is_due_with_all_patience_before_it(notifications: Notifications) -> None:
    news = placed()
    await keep(notifications, news)
    for verdict in (State.READY, State.READY, State.FAILED):
        [attempt] = await claimed(notifications)
        await notifications.settle([Verdict(attempt, verdict, NO_TIME, "451 soon")])

    redriven = await notifications.send_again(news.notification_id)

    assert (redriven.id, redriven.order_id, redriven.attempts) == (news.notification_id, news.order_id, 3)
    assert not await waiting(notifications)
    assert await state(notifications, news) is State.READY
    [attempt] = await claimed(notifications)
    assert (attempt.number, attempt.tries, attempt.tried_for) == (4, 1, NO_TIME)
    assert attempt.letter == letter(news)


async def test_a_mail_that_is_redriven_again_and_again_is_sent_once(notifications: Notifications) -> None:
    news = placed()
    dead = await given_up(notifications, news)
    first = await notifications.send_again(dead)

    assert await notifications.send_again(dead) == first
    [attempt] = await claimed(notifications)
    assert await notifications.send_again(dead) == first
    assert not await claimed(notifications)
    await notifications.settle([Verdict(attempt, State.SENT)])
    assert await notifications.send_again(dead) == first
    await keep(notifications, news)

    assert not await claimed(notifications)
    assert await state(notifications, news) is State.SENT


async def test_a_mail_that_is_given_up_once_more_is_back_on_the_list(notifications: Notifications) -> None:
    news = placed()
    dead = await given_up(notifications, news)
    first = await notifications.send_again(dead)
    [attempt] = await claimed(notifications)

    await notifications.settle([Verdict(attempt, State.FAILED, error="552 full")])

    [again] = await notifications.open_page(10, None)
    assert (again.id, again.reason, again.attempts) == (dead, "552 full", 2)
    assert again.create_time > first.create_time
    await notifications.send_again(dead)
    assert [attempt.number for attempt in await claimed(notifications)] == [3]


async def test_who_had_a_mail_before_it_was_redriven_does_not_decide_about_it_now(notifications: Notifications) -> None:
    """The number of an attempt is never given again: by it a sender that was frozen is told from the one of today."""
    news = placed()
    await keep(notifications, news)
    [frozen] = await claimed(notifications, lease=NO_TIME)
    [other] = await claimed(notifications)
    await notifications.settle([Verdict(other, State.FAILED, error="550 no")])
    await notifications.send_again(news.notification_id)
    [now] = await claimed(notifications)

    await notifications.settle([Verdict(frozen, State.SENT), Verdict(other, State.SENT)])
    assert await state(notifications, news) is State.SENDING

    await notifications.settle([Verdict(now, State.SENT)])
    assert await state(notifications, news) is State.SENT


@pytest.mark.parametrize("newer", [State.SENDING, State.SENT])
async def test_an_old_mail_that_is_redriven_after_a_newer_one_is_not_sent(
    notifications: Notifications, newer_than: Ending, newer: State
) -> None:
    first = placed()
    dead = await given_up(notifications, first)
    await keep(notifications, newer_than(first))
    [attempt] = await claimed(notifications)
    if newer is State.SENT:
        await notifications.settle([Verdict(attempt, State.SENT)])

    await notifications.send_again(dead)

    assert not await claimed(notifications)
    assert await state(notifications, first) is State.SUPERSEDED
    assert not await waiting(notifications)


async def test_an_event_that_is_understood_now_is_kept_once_however_often_it_is_redriven(
    notifications: Notifications,
) -> None:
    news = replace(placed(), event=event(payload=b"\x0a", traceparent="00-ab-cd-01"))
    dead = await buried(notifications, news.event)
    assert await notifications.event_of(dead) == news.event

    for _ in range(3):
        redriven = await notifications.hear_again(dead, news, letter(news))
        assert (redriven.id, redriven.order_id) == (dead, news.order_id)
    await keep(notifications, news)
    await notifications.bury([Garbled(news.event, "of a replica that is older")])

    assert not await waiting(notifications)
    assert await notifications.event_of(dead) is None
    [attempt] = await claimed(notifications)
    assert (attempt.recipient, attempt.letter, attempt.traceparent) == (news.recipient, letter(news), "00-ab-cd-01")


async def test_an_event_that_came_again_and_was_heard_is_not_told_twice(notifications: Notifications) -> None:
    news = placed()
    dead = await buried(notifications, news.event)
    await keep(notifications, news)
    [attempt] = await claimed(notifications)
    await notifications.settle([Verdict(attempt, State.SENT)])

    await notifications.hear_again(dead, news, letter(news))

    assert not await waiting(notifications)
    assert not await claimed(notifications)
    assert await state(notifications, news) is State.SENT


async def test_an_old_event_that_is_redriven_after_a_newer_mail_is_not_told(
    notifications: Notifications, newer_than: Ending
) -> None:
    first = placed()
    dead = await buried(notifications, first.event)
    await keep(notifications, newer_than(first))
    [attempt] = await claimed(notifications)
    await notifications.settle([Verdict(attempt, State.SENT)])

    await notifications.hear_again(dead, first, letter(first))

    assert not await claimed(notifications)
    assert await state(notifications, first) is State.SUPERSEDED


async def test_an_event_that_cannot_be_kept_stays_a_dead_letter(notifications: Notifications) -> None:
    news = placed(customer="\0")
    dead = await buried(notifications, news.event)

    with pytest.raises(Unkeepable):
        await notifications.hear_again(dead, news, letter(news))

    assert await waiting(notifications) == [dead]


async def test_what_is_discarded_is_gone_for_good(notifications: Notifications) -> None:
    news, garbled = placed(), event(payload=b"\xff")
    mail, unread = await given_up(notifications, news), await buried(notifications, garbled)

    for dead in (mail, unread):
        discarded = await notifications.discard(dead)
        assert discarded.id == dead
        assert await notifications.discard(dead) == discarded
        with pytest.raises(DeadLetterNotFound):
            await notifications.send_again(dead)
    with pytest.raises(DeadLetterNotFound):
        await notifications.hear_again(unread, placed(), letter(news))
    await keep(notifications, news)
    await buried(notifications, garbled)

    assert not await waiting(notifications)
    assert await notifications.event_of(unread) is None
    assert not await claimed(notifications)
    assert await state(notifications, news) is State.FAILED


async def test_what_was_redriven_or_never_was_cannot_be_discarded(notifications: Notifications) -> None:
    dead = await given_up(notifications, placed())
    await notifications.send_again(dead)

    for id in (dead, uuid4()):
        with pytest.raises(DeadLetterNotFound) as refused:
            await notifications.discard(id)
        assert refused.value.facts == {"dead_letter": f"deadLetters/{id}"}
    with pytest.raises(DeadLetterNotFound):
        await notifications.send_again(uuid4())
