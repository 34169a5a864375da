"""What the notification service needs from outside, in its own words."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from services.notification.domain import (
    Attempt,
    DeadLetter,
    Event,
    Garbled,
    Letter,
    News,
    Notification,
    Outcome,
    Verdict,
)

type Place = tuple[datetime, UUID]
"""Where a page ends: creation time and id of the last one on it."""


class Inbox(Protocol):
    """Where news arrives. Whatever comes twice is kept once."""

    async def keep(self, letters: Sequence[tuple[News, Letter]]) -> None:
        """Keeps all, or none, READY to be sent. One per (order, kind): a repeat changes nothing.

        Raises Unkeepable when one of them is at fault, DatabaseUnavailable when none is.
        """
        ...

    async def bury(self, garbled: Sequence[Garbled]) -> None:
        """Keeps what cannot be understood as dead letters. A repeat changes nothing, also of one that was ended."""
        ...


class Outgoing(Protocol):
    """What is to be sent. Any number of senders may work on it at once."""

    async def claim(self, most: int, lease: timedelta) -> Sequence[Attempt]:
        """Takes up to `most` that are due and makes them SENDING; nobody else takes them before `lease` is over.

        Per order one at a time, the oldest first. One that waits while a newer one of its order is SENDING or SENT
        becomes SUPERSEDED instead. One whose earlier lease is over counts a possible duplicate.
        """
        ...

    async def settle(self, verdicts: Sequence[Verdict]) -> None:
        """Writes what became of them, but for those that somebody else has claimed meanwhile.

        FAILED leaves an open dead letter beside it; `in_doubt` counts a possible duplicate.
        """
        ...


class History(Protocol):
    """What customers were told."""

    async def page(self, customer: str, most: int, after: Place | None) -> Sequence[Notification]:
        """The customer's notifications, the newest first, from behind `after`."""
        ...


class DeadLetters(Protocol):
    """What waits for a person. An end comes once: whoever asks for the same one again is told what was ended.

    DeadLetterNotFound: there never was such a one, or it has come to the other end.
    """

    async def open_page(self, most: int, after: Place | None) -> Sequence[DeadLetter]:
        """Those that wait, the newest first, from behind `after`."""
        ...

    async def event_of(self, id: UUID) -> Event | None:
        """The event to be understood in this one, while it waits."""
        ...

    async def send_again(self, id: UUID) -> DeadLetter:
        """Its mail is READY and due, with all patience before it. Raises DeadLetterNotFound."""
        ...

    async def hear_again(self, id: UUID, news: News, letter: Letter) -> DeadLetter:
        """Its event is kept as Inbox.keep does. Raises DeadLetterNotFound, Unkeepable; then nothing has changed."""
        ...

    async def discard(self, id: UUID) -> DeadLetter:
        """Nothing comes of it. Raises DeadLetterNotFound."""
        ...


class MailServer(Protocol):
    """What takes mails."""

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Where it is."""
        ...

    async def send(self, attempt: Attempt, until: float) -> Outcome:
        """Says what came of it, soon after `until` (the loop's time) at the latest.

        Every attempt of one notification has the same Message-ID.
        """
        ...

    async def hang_up(self) -> None:
        """Lets go of what it keeps for the next mail: there is none for the time being."""
        ...
