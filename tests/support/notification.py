"""News to tell, and notifications kept in memory: the model that PostgreSQL is measured against."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from google.type.money_pb2 import Money as MoneyMessage
from shop.order.v1.events_pb2 import OrderCancelled, OrderPlaced, OrderRejected
from shop.order.v1.order_pb2 import Order

from services.money import Money
from services.notification.domain import (
    Attempt,
    DeadLetter,
    DeadLetterNotFound,
    Event,
    Garbled,
    Kind,
    Letter,
    Line,
    News,
    Notification,
    State,
    Unkeepable,
    Verdict,
)
from services.notification.letters import letter
from services.notification.ports import Inbox, Outgoing, Place

NO_TIME, A_WHILE = timedelta(), timedelta(minutes=1)


def event(type: str = "shop.order.v1.OrderPlaced", payload: bytes = b"", **headers: str) -> Event:
    return Event(type=type, id=str(uuid4()), headers=headers, payload=payload, traceparent=headers.get("traceparent"))


def placed(
    order_id: UUID | None = None,
    customer: str = "ann",
    recipient: str = "ann@example.com",
    lines: Sequence[Line] = (Line("Blue mug", 2, Money.of("EUR", 12, 500_000_000)),),
) -> News:
    """What Order says when it has accepted one."""
    return News(
        event=event(),
        kind=Kind.ORDER_PLACED,
        order_id=order_id or uuid4(),
        version=1,
        customer=customer,
        recipient=recipient,
        placed_at=datetime(2026, 11, 24, 16, 20, tzinfo=UTC),
        since=datetime(2026, 11, 24, 16, 21, tzinfo=UTC),
        lines=tuple(lines),
        total=Money.of("EUR", 25),
    )


def rejected(placed: News, reason: str = "OUT_OF_STOCK") -> News:
    """What Order says when it cannot keep one that it has accepted."""
    return replace(
        placed, event=event("shop.order.v1.OrderRejected"), kind=Kind.ORDER_REJECTED, version=2, reason=reason
    )


def cancelled(placed: News) -> News:
    """What Order says when its customer has cancelled one."""
    return replace(placed, event=event("shop.order.v1.OrderCancelled"), kind=Kind.ORDER_CANCELLED, version=2)


def order_placed(order_id: UUID | None = None) -> OrderPlaced:
    """What Order puts into the stream for what `placed` tells."""
    mugs = Order.Line(
        product="products/blue-mug",
        display_name="Blue mug",
        quantity=2,
        unit_price=MoneyMessage(currency_code="EUR", units=12, nanos=500_000_000),
    )
    event = OrderPlaced(version=1, recipient="ann@example.com")
    event.order.name = f"orders/{order_id or uuid4()}"
    event.order.customer = "customers/ann"
    event.order.lines.append(mugs)
    event.order.total.CopyFrom(MoneyMessage(currency_code="EUR", units=25))
    event.order.state = Order.STATE_PLACED
    event.order.create_time.FromDatetime(datetime(2026, 11, 24, 16, 20, tzinfo=UTC))
    return event


def order_rejected(placed: OrderPlaced) -> OrderRejected:
    """What Order says when it cannot keep an order that it has accepted."""
    event = OrderRejected(order=placed.order, version=2, recipient=placed.recipient)
    event.order.state = Order.STATE_REJECTED
    event.order.state_reason = "OUT_OF_STOCK"
    return event


def order_cancelled(placed: OrderPlaced) -> OrderCancelled:
    """What Order says when its customer has cancelled one."""
    event = OrderCancelled(order=placed.order, version=2, recipient=placed.recipient)
    event.order.state = Order.STATE_CANCELLED
    return event


async def keep(inbox: Inbox, *news: News) -> None:
    """With their letters."""
    await inbox.keep([(one, letter(one)) for one in news])


async def claimed(outgoing: Outgoing, lease: timedelta = A_WHILE) -> Sequence[Attempt]:
    """All that is due."""
    return await outgoing.claim(10, lease)


@dataclass(slots=True)
class Row:
    news: News
    letter: Letter
    create_time: datetime
    claimable_time: datetime
    state: State = State.READY
    attempts: int = 0
    attempts_before_redrive: int = 0
    first_attempt_time: datetime | None = None
    possible_duplicates: int = 0
    last_error: str | None = None
    send_time: datetime | None = None


@dataclass(slots=True)
class Grave:
    letter: DeadLetter
    event: Event | None
    """None of a mail."""
    state: str = "OPEN"


@dataclass(slots=True)
class MemoryNotifications:
    """Implements Inbox, Outgoing, History and DeadLetters, one call at a time."""

    rows: dict[UUID, Row] = field(default_factory=dict[UUID, Row])
    dead: dict[UUID, Grave] = field(default_factory=dict[UUID, Grave])
    latest: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def reasons(self) -> list[str]:
        """Why there are dead letters, in the order of the alphabet."""
        return sorted(grave.letter.reason for grave in self.dead.values())

    async def keep(self, letters: Sequence[tuple[News, Letter]]) -> None:
        if any("\0" in news.customer for news, _ in letters):
            raise Unkeepable("a text with a NUL")
        for news, text in letters:
            if news.notification_id not in self.rows:
                now = self._later()
                self.rows[news.notification_id] = Row(news, text, create_time=now, claimable_time=now)

    def _later(self) -> datetime:
        """No two share a moment."""
        self.latest = max(datetime.now(UTC), self.latest + timedelta(microseconds=1))
        return self.latest

    async def bury(self, garbled: Sequence[Garbled]) -> None:
        for one in garbled:
            if one.dead_letter_id not in self.dead:
                self._bury(one.dead_letter_id, one.event, None, one.reason, 1)
                self.dead[one.dead_letter_id].event = one.event

    def _bury(self, id: UUID, event: Event, order_id: UUID | None, reason: str, attempts: int) -> None:
        dead = DeadLetter(id, event.type, event.id, order_id, reason, attempts, self._later())
        self.dead[id] = Grave(dead, None)

    async def claim(self, most: int, lease: timedelta) -> Sequence[Attempt]:
        now = datetime.now(UTC)
        due = sorted(
            (row for row in self.rows.values() if _open(row) and row.claimable_time <= now),
            key=lambda row: row.claimable_time,
        )
        return [attempt for row in due[:most] if (attempt := self._claim(row, now, lease))]

    def _claim(self, row: Row, now: datetime, lease: timedelta) -> Attempt | None:
        others = [
            other for other in self.rows.values() if other.news.order_id == row.news.order_id and other is not row
        ]
        newer = [other for other in others if other.news.version > row.news.version]
        if row.state is State.READY and any(other.state in {State.SENDING, State.SENT} for other in newer):
            row.state = State.SUPERSEDED
            return None
        under_way = any(other.state is State.SENDING and other.claimable_time > now for other in others)
        older_due = any(
            _open(other) and other.claimable_time <= now and _place(other) < _place(row) for other in others
        )
        if under_way or older_due:
            return None
        taken_over = row.state is State.SENDING
        row.possible_duplicates += taken_over
        row.state, row.attempts, row.claimable_time = State.SENDING, row.attempts + 1, now + lease
        row.first_attempt_time = row.first_attempt_time or now
        return Attempt(
            notification_id=row.news.notification_id,
            order_id=row.news.order_id,
            kind=row.news.kind,
            recipient=row.news.recipient,
            letter=row.letter,
            create_time=row.create_time,
            number=row.attempts,
            tries=row.attempts - row.attempts_before_redrive,
            tried_for=now - row.first_attempt_time,
            traceparent=row.news.event.traceparent,
            since=row.news.since,
            taken_over=taken_over,
        )

    async def settle(self, verdicts: Sequence[Verdict]) -> None:
        now = datetime.now(UTC)
        for verdict in verdicts:
            row = self.rows[verdict.attempt.notification_id]
            if row.state is not State.SENDING or row.attempts != verdict.attempt.number:
                continue
            row.state, row.last_error, row.claimable_time = verdict.state, verdict.error, now + verdict.pause
            row.possible_duplicates += verdict.in_doubt
            if row.state is State.SENT:
                row.send_time = now
            if row.state is State.FAILED:
                news = row.news
                self._bury(news.notification_id, news.event, news.order_id, verdict.error or "", row.attempts)

    async def page(self, customer: str, most: int, after: Place | None) -> Sequence[Notification]:
        shown = sorted(
            (_shown(row) for row in self.rows.values() if row.news.customer == customer),
            key=lambda one: (one.create_time, one.id),
            reverse=True,
        )
        return [one for one in shown if after is None or (one.create_time, one.id) < after][:most]

    async def open_page(self, most: int, after: Place | None) -> Sequence[DeadLetter]:
        waiting = sorted(
            (grave.letter for grave in self.dead.values() if grave.state == "OPEN"),
            key=lambda one: (one.create_time, one.id),
            reverse=True,
        )
        return [one for one in waiting if after is None or (one.create_time, one.id) < after][:most]

    async def event_of(self, id: UUID) -> Event | None:
        grave = self.dead.get(id)
        return grave.event if grave and grave.state == "OPEN" else None

    async def send_again(self, id: UUID) -> DeadLetter:
        def ready() -> None:
            row = self.rows[id]
            row.state, row.claimable_time, row.first_attempt_time = State.READY, datetime.now(UTC), None
            row.attempts_before_redrive = row.attempts

        return self._ended(id, "REDRIVEN", ready)

    async def hear_again(self, id: UUID, news: News, letter: Letter) -> DeadLetter:
        if "\0" in news.customer:
            raise Unkeepable("a text with a NUL")

        def hear() -> None:
            now = self._later()
            self.rows.setdefault(news.notification_id, Row(news, letter, create_time=now, claimable_time=now))
            self.dead[id].letter = replace(self.dead[id].letter, order_id=news.order_id)

        return self._ended(id, "REDRIVEN", hear)

    async def discard(self, id: UUID) -> DeadLetter:
        return self._ended(id, "DISCARDED", lambda: None)

    def _ended(self, id: UUID, state: str, end: Callable[[], None]) -> DeadLetter:
        grave = self.dead.get(id)
        if grave is None or grave.state not in {"OPEN", state}:
            raise DeadLetterNotFound(dead_letter=f"deadLetters/{id}")
        if grave.state == "OPEN":
            grave.state = state
            end()
        return grave.letter


def _open(row: Row) -> bool:
    return row.state in {State.READY, State.SENDING}


def _place(row: Row) -> tuple[bool, int, UUID]:
    """Among the mails about one order: what a dead sender left, then the oldest."""
    return row.state is not State.SENDING, row.news.version, row.news.notification_id


def _shown(row: Row) -> Notification:
    return Notification(
        id=row.news.notification_id,
        order_id=row.news.order_id,
        kind=row.news.kind,
        customer=row.news.customer,
        recipient=row.news.recipient,
        subject=row.letter.subject,
        state=row.state,
        create_time=row.create_time,
        send_time=row.send_time,
    )
