"""What customers are told about their orders, and what may happen to a mail on its way."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID, uuid5

from services.money import Money
from services.refusals import NotFound, Rejected

_DEAD_LETTERS = UUID("0f6f2b0e-6a0f-4c5e-9a6c-3f1d3f0f4b5d")

# An address that goes into a header and an SMTP command as it is: nothing that would end or structure either, and
# nothing that readers of a header would decode first (RFC 2047: `=?utf-8?q?...?=`).
_ADDRESS = re.compile(r"(?!.*=\?)[^\s\x00-\x1f\x7f@<>(),;:\"\\\[\]]{1,64}@[^\s\x00-\x1f\x7f@<>(),;:\"\\]{1,255}")


class Kind(Enum):
    """What a notification tells. There is one of each per order."""

    ORDER_PLACED = "ORDER_PLACED"
    ORDER_REJECTED = "ORDER_REJECTED"
    ORDER_CANCELLED = "ORDER_CANCELLED"


class State(Enum):
    """Where a notification is on its way; SENT, SUPERSEDED and FAILED are final."""

    READY = "READY"
    SENDING = "SENDING"
    SENT = "SENT"
    SUPERSEDED = "SUPERSEDED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Line:
    """So many pieces of one product, named and priced as on the day of purchase."""

    display_name: str
    quantity: int
    unit_price: Money


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it came, readable or not."""

    type: str
    id: str
    headers: Mapping[str, str]
    payload: bytes
    traceparent: str | None = None
    """Of the span in which it was received (W3C trace context): sending continues from there."""


@dataclass(frozen=True, slots=True)
class News:
    """What an event says about an order. `version` is the order's: the higher, the newer.

    Raises ValueError for a recipient whom no mail can be sent to.
    """

    event: Event
    kind: Kind
    order_id: UUID
    version: int
    customer: str
    recipient: str
    placed_at: datetime
    lines: tuple[Line, ...]
    total: Money
    reason: str = ""
    """Why the order was rejected, as a code such as OUT_OF_STOCK."""
    since: datetime | None = None
    """When the order became what this tells of, which is when its customer was answered; None: nobody said."""

    def __post_init__(self) -> None:
        if not _ADDRESS.fullmatch(self.recipient):
            raise ValueError("recipient is no address")

    @property
    def notification_id(self) -> UUID:
        """One per order and kind, for ever."""
        return uuid5(self.order_id, self.kind.value)


@dataclass(frozen=True, slots=True)
class Garbled:
    """An event that never will be understood, and why."""

    event: Event
    reason: str

    @property
    def dead_letter_id(self) -> UUID:
        """The same for each delivery of the event."""
        return uuid5(uuid5(_DEAD_LETTERS, self.event.id), self.event.payload.hex())


@dataclass(frozen=True, slots=True)
class Letter:
    """What a customer reads: the same twice, as plain text and as a page of HTML."""

    subject: str
    text: str
    html: str | None
    """Letters of before there was HTML have none."""


@dataclass(frozen=True, slots=True)
class Notification:
    """One mail about one order, as its customer sees it."""

    id: UUID
    order_id: UUID
    kind: Kind
    customer: str
    recipient: str
    subject: str
    state: State
    create_time: datetime
    send_time: datetime | None


class Unkeepable(Exception):
    """The table of notifications will never take this."""


# --- Dead letters: what needs a person ---


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A mail that was given up, or an event that could not be understood."""

    id: UUID
    event_type: str
    event_id: str
    order_id: UUID | None
    """None of an event that nobody has understood yet."""
    reason: str
    attempts: int
    create_time: datetime


class DeadLetterNotFound(NotFound):
    reason = "DEAD_LETTER_NOT_FOUND"
    message = "There is no such dead letter."


class EventGarbled(Rejected):
    """Facts: the dead letter, and why its event makes no sense."""

    reason = "EVENT_GARBLED"
    message = "The event still cannot be understood."


# --- Sending: what came of it, and what follows ---


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to send one notification, claimed for a while."""

    notification_id: UUID
    order_id: UUID
    kind: Kind
    recipient: str
    letter: Letter
    create_time: datetime
    number: int
    """1 for the first; tells this claim from later ones of the same notification."""
    tries: int
    """Attempts since the first, or since it was last redriven, with this one."""
    tried_for: timedelta
    """Since the first of these."""
    traceparent: str | None
    since: datetime | None = None
    """What its news had."""
    taken_over: bool = False
    """From a sender whose lease was over: it may have been sent before."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The mail server has taken it."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """Not now."""

    error: str
    in_doubt: bool = False
    """The conversation ended after the text was sent and before the answer came: it may have been taken."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Never."""

    error: str


type Outcome = Accepted | Postponed | Refused


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an attempt's notification."""

    attempt: Attempt
    state: State
    pause: timedelta = timedelta()
    """Until the next attempt, when READY."""
    error: str | None = None
    in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Patience:
    """How long, and how often, a mail is tried."""

    first_pause: timedelta
    longest_pause: timedelta
    give_up_after: timedelta

    def pause(self, tries: int, jitter: float) -> timedelta:
        """After so many tries. It doubles with each; `jitter`, from 0 to 1, takes up to half of it away."""
        # 64 doublings of the shortest pause are far beyond the longest: no float overflows.
        grown_s = self.first_pause.total_seconds() * 2.0 ** min(tries - 1, 64)
        return timedelta(seconds=min(grown_s, self.longest_pause.total_seconds()) * (1 - jitter / 2))


def judge(attempt: Attempt, outcome: Outcome, patience: Patience, jitter: float) -> Verdict:
    """What follows from an outcome."""
    match outcome:
        case Accepted():
            return Verdict(attempt, State.SENT)
        case Refused(error):
            return Verdict(attempt, State.FAILED, error=error)
        case Postponed(error, in_doubt) if attempt.tried_for >= patience.give_up_after:
            return Verdict(attempt, State.FAILED, error=f"given up: {error}", in_doubt=in_doubt)
        case Postponed(error, in_doubt):
            return Verdict(attempt, State.READY, patience.pause(attempt.tries, jitter), error, in_doubt)
