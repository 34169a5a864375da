"""How events become notifications, with the tables faked."""

from services.notification.domain import Garbled
from services.notification.letters import letter
from services.notification.use_cases import Hearing, Showing
from tests.support.notification import MemoryNotifications, cancelled, event, placed, rejected


class Bell:
    def __init__(self) -> None:
        self.rung = 0

    def ring(self) -> None:
        self.rung += 1


async def test_each_order_and_kind_is_told_once_however_often_it_is_heard() -> None:
    kept, bell = MemoryNotifications(), Bell()
    hearing = Hearing(kept, letter, bell.ring)
    news = placed()

    await hearing.take([news, news])
    await hearing.take([news, rejected(news)])
    await hearing.take([cancelled(news), cancelled(news)])

    assert [row.news.kind for row in kept.rows.values()] == [news.kind, rejected(news).kind, cancelled(news).kind]
    assert bell.rung == 3


async def test_what_cannot_be_understood_or_kept_becomes_a_dead_letter_and_spoils_nothing() -> None:
    kept, bell = MemoryNotifications(), Bell()
    before, unkeepable, after = placed(), placed(customer="\0"), placed()
    garbled = Garbled(event(payload=b"\xff"), "no protobuf")

    await Hearing(kept, letter, bell.ring).take([garbled, before, unkeepable, after])

    assert set(kept.rows) == {before.notification_id, after.notification_id}
    assert kept.reasons == ["a text with a NUL", "no protobuf"]
    assert bell.rung


async def test_nobody_is_woken_for_dead_letters_alone() -> None:
    kept, bell = MemoryNotifications(), Bell()

    await Hearing(kept, letter, bell.ring).take([Garbled(event(), "no protobuf")])

    assert not bell.rung


async def test_customers_page_through_their_own_newest_first() -> None:
    kept = MemoryNotifications()
    hearing, showing = Hearing(kept, letter, lambda: None), Showing(kept)
    anns = [placed(customer="ann") for _ in range(5)]
    for news in [*anns, placed(customer="bob")]:
        await hearing.take([news])

    first = await showing.page("ann", 2, None)
    second = await showing.page("ann", 2, first.next)
    third = await showing.page("ann", 2, second.next)

    seen = [*first.shown, *second.shown, *third.shown]
    assert [one.order_id for one in seen] == [news.order_id for news in reversed(anns)]
    assert third.next is None


async def test_a_full_last_page_leads_nowhere() -> None:
    kept = MemoryNotifications()
    await Hearing(kept, letter, lambda: None).take([placed(), placed()])

    page = await Showing(kept).page("ann", 2, None)

    assert len(page.shown) == 2
    assert page.next is None
