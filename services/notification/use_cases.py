"""What the notification service does: hear, show what was told, and mend. Sending is a job of the worker (mail)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from services.notification.domain import (
    DeadLetter,
    Event,
    EventGarbled,
    Garbled,
    Letter,
    News,
    Notification,
    Unkeepable,
)
from services.notification.ports import DeadLetters, History, Inbox, Place

_MOST_OF_A_REASON = 500
"""Characters: refusals travel as metadata, of which gRPC takes 8 KB in all."""


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
class Page[One: (Notification, DeadLetter)]:
    """Some of many, and where the next page begins."""

    shown: Sequence[One]
    next: Place | None

    @classmethod
    def of(cls, found: Sequence[One], size: int) -> "Page[One]":
        """`found` is one more than the size, when there are so many: this tells whether this is the last page."""
        shown = found[:size]
        return cls(shown, (shown[-1].create_time, shown[-1].id) if len(found) > size else None)


@dataclass(frozen=True, slots=True)
class Showing:
    """Where customers look up what they were told."""

    history: History

    async def page(self, customer: str, size: int, after: Place | None) -> Page[Notification]:
        """The customer's own, the newest first."""
        return Page.of(await self.history.page(customer, size + 1, after), size)


@dataclass(frozen=True, slots=True)
class Mending:
    """An operator with the dead letters in hand. All but the list raises DeadLetterNotFound."""

    dead_letters: DeadLetters
    understand: Callable[[Event], News | Garbled]
    letter: Callable[[News], Letter]
    mended: Callable[[], None]
    """Told after there is something to send."""

    async def page(self, size: int, after: Place | None) -> Page[DeadLetter]:
        """Those that wait, the newest first."""
        return Page.of(await self.dead_letters.open_page(size + 1, after), size)

    async def redrive(self, id: UUID) -> DeadLetter:
        """Another go, with what is known today. Raises EventGarbled."""
        event = await self.dead_letters.event_of(id)
        redriven = await (self.dead_letters.send_again(id) if event is None else self._hear_again(id, event))
        self.mended()
        return redriven

    async def discard(self, id: UUID) -> DeadLetter:
        """For good."""
        return await self.dead_letters.discard(id)

    async def _hear_again(self, id: UUID, event: Event) -> DeadLetter:
        news = self.understand(event)
        if isinstance(news, Garbled):
            raise EventGarbled(dead_letter=f"deadLetters/{id}", why=news.reason[:_MOST_OF_A_REASON])
        try:
            return await self.dead_letters.hear_again(id, news, self.letter(news))
        except Unkeepable as fault:
            raise EventGarbled(dead_letter=f"deadLetters/{id}", why=str(fault)[:_MOST_OF_A_REASON]) from fault
