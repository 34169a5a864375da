"""How an operator deals with dead letters, with the tables faked."""

from collections.abc import Callable
from uuid import uuid4

import pytest

from services.notification.domain import DeadLetterNotFound, Event, EventGarbled, Garbled, News, State, Verdict
from services.notification.letters import letter
from services.notification.use_cases import Mending
from tests.support.notification import MemoryNotifications, claimed, event, keep, placed


class Bell:
    def __init__(self) -> None:
        self.rung = 0

    def ring(self) -> None:
        self.rung += 1


def mending(
    kept: MemoryNotifications, bell: Bell, understand: Callable[[Event], News | Garbled] | None = None
) -> Mending:
    """Understands nothing unless told how."""
    return Mending(kept, understand or (lambda it: Garbled(it, "no protobuf")), letter, bell.ring)


async def test_a_mail_is_redriven_without_a_look_at_its_event() -> None:
    kept, bell, news = MemoryNotifications(), Bell(), placed()
    await keep(kept, news)
    [attempt] = await claimed(kept)
    await kept.settle([Verdict(attempt, State.FAILED, error="550 no")])

    redriven = await mending(kept, bell).redrive(news.notification_id)

    assert (redriven.id, redriven.reason) == (news.notification_id, "550 no")
    assert kept.rows[news.notification_id].state is State.READY
    assert bell.rung == 1


async def test_an_event_is_read_again_by_what_is_known_today() -> None:
    kept, bell, news = MemoryNotifications(), Bell(), placed()
    garbled = Garbled(news.event, "of an older version")
    await kept.bury([garbled])

    redriven = await mending(kept, bell, lambda _: news).redrive(garbled.dead_letter_id)

    assert redriven.order_id == news.order_id
    assert kept.rows[news.notification_id].letter == letter(news)
    assert bell.rung == 1
    assert not (await mending(kept, bell).page(10, None)).shown


@pytest.mark.parametrize(
    ("understand", "why"),
    [
        (lambda it: Garbled(it, "y" * 10_000), "y" * 500),
        (lambda _: placed(customer="\0"), "a text with a NUL"),
    ],
    ids=["not understood", "not kept"],
)
async def test_an_event_that_makes_no_sense_even_now_is_refused_with_the_reason_and_stays(
    understand: Callable[[Event], News | Garbled], why: str
) -> None:
    kept, bell = MemoryNotifications(), Bell()
    garbled = Garbled(event(payload=b"\xff"), "of an older version")
    await kept.bury([garbled])

    with pytest.raises(EventGarbled) as refused:
        await mending(kept, bell, understand).redrive(garbled.dead_letter_id)

    assert refused.value.facts == {"dead_letter": f"deadLetters/{garbled.dead_letter_id}", "why": why}
    assert [dead.id for dead in (await mending(kept, bell).page(10, None)).shown] == [garbled.dead_letter_id]
    assert not kept.rows
    assert not bell.rung


async def test_what_is_not_there_is_not_found() -> None:
    both = mending(MemoryNotifications(), Bell())

    for end in (both.redrive, both.discard):
        with pytest.raises(DeadLetterNotFound):
            await end(uuid4())


async def test_operators_page_through_what_waits_newest_first() -> None:
    kept = MemoryNotifications()
    garbled = [Garbled(event(payload=b"\xff"), "no protobuf") for _ in range(5)]
    for one in garbled:
        await kept.bury([one])
    operator = mending(kept, Bell())
    await operator.discard(garbled[2].dead_letter_id)

    first = await operator.page(2, None)
    second = await operator.page(2, first.next)

    seen = [dead.id for dead in [*first.shown, *second.shown]]
    assert seen == [garbled[at].dead_letter_id for at in (4, 3, 1, 0)]
    assert second.next is None
