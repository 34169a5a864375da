"""What the notification service does: hear, and show what was told. Sending is a job of the chassis' worker (mail)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.notification.domain import Garbled, Letter, News, Notification, Unkeepable
from services.notification.ports import History, Inbox, Place


@dataclass(frozen=True, slots=True)
class Hearing:
    """Where events become notifications."""

    inbox: Inbox
    letter: Callable[[News], Letter]
    """Finds the words. They are kept, so that every attempt sends the same ones."""
    heard: Callable[[], None]
    """Told after something was kept: the sender need not wait for its next look."""

    async def take(self, arrivals: Sequence[News | Garbled]) -> None:
        """When it returns, each arrival is kept, was kept before, or is a dead letter.

        Raises DatabaseUnavailable; then all may be taken again.
        """
        news = [arrival for arrival in arrivals if isinstance(arrival, News)]
        garbled = [arrival for arrival in arrivals if isinstance(arrival, Garbled)]
        try:
            await self._keep(news)
        except Unkeepable:
            # One of them spoils the others: find it.
            garbled += [spoilt for one in news if (spoilt := await self._keep_alone(one))]
        if garbled:
            await self.inbox.bury(garbled)

    async def _keep(self, news: Sequence[News]) -> None:
        if news:
            await self.inbox.keep([(one, self.letter(one)) for one in news])
            self.heard()

    async def _keep_alone(self, news: News) -> Garbled | None:
        try:
            await self._keep([news])
        except Unkeepable as fault:
            return Garbled(news.event, str(fault))
        return None


@dataclass(frozen=True, slots=True)
class Page:
    """Some notifications, and where the next page begins."""

    notifications: Sequence[Notification]
    next: Place | None


@dataclass(frozen=True, slots=True)
class Showing:
    """Where customers look up what they were told."""

    history: History

    async def page(self, customer: str, size: int, after: Place | None) -> Page:
        """The customer's own, the newest first."""
        found = await self.history.page(customer, size + 1, after)
        shown = found[:size]
        return Page(shown, (shown[-1].create_time, shown[-1].id) if len(found) > size else None)
