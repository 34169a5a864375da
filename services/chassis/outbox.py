"""The relay: events that were written with what they tell of go to the bus, each order's one after the other."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from services.chassis import logs
from services.chassis.bus.access import BusUnavailable
from services.chassis.bus.connection import PUBLISH_S, STREAM_BYTES, Bus
from services.chassis.metrics import Counter
from services.chassis.tracing import SpanKind, current_traceparent, span
from services.chassis.worker import Failed, each

AT_ONCE = 64
LEASE_S = 10.0
LOOK_EVERY_S = 10.0
"""How often the stream is looked at, which may have become full or gone."""

log = logs.get()
_sent = Counter(
    "messaging.client.sent.messages",
    "{message}",
    "Messages that were published, and those that were not taken.",
    "messaging.system",
    "messaging.destination.name",
    "error.type",
)


@dataclass(frozen=True, slots=True)
class Event:
    id: UUID
    """The same for ever: readers know an event by it, however often it comes."""
    type: str
    """Full name of its message, and the subject that it is published to."""
    time: datetime
    payload: bytes
    traceparent: str | None
    about: str = ""
    """What it tells of, by name (CloudEvents: subject)."""
    resends: int = 0
    """How often it was unsent after it had been sent. The stream drops what it has seen by message id, so each resend
    has its own."""


class Events[E: Event](Protocol):
    """The table of events, as the relay needs it."""

    async def claim_events(self, most: int, lease_s: float) -> Sequence[E]:
        """Leases unsent ones of which no earlier unsent one of the same thing exists, oldest first."""
        ...

    async def settle_events(self, outcomes: Sequence[tuple[E, Failed | None]]) -> None:
        """None: it is sent. Failed: keeps the error and backs off. Only those whose lease is still ours."""
        ...

    async def stream_created(self, time: datetime) -> int:
        """Remembers when the stream was made, and returns how many events that made unsent, in one transaction.

        If it is not the time known so far, the stream was lost: sent events younger than a day are unsent, with
        `resends` + 1, and all leases are over.
        """
        ...


class Relay[E: Event]:
    """A job for a Worker: claims nothing while the bus is away, and one event at a time while the stream takes none."""

    name = "relay"

    def __init__(
        self,
        events: Events[E],
        bus: Bus,
        *,
        stream: str,
        subjects: Sequence[str],
        source: str,
        max_bytes: int = STREAM_BYTES,
        lease_s: float = LEASE_S,
    ) -> None:
        """`source` is the CloudEvents source, such as `/shop/order`; `max_bytes` is what the stream holds."""
        self._events, self._bus = events, bus
        self._stream, self._subjects, self._source, self._max_bytes = stream, subjects, source, max_bytes
        self._lease_s = lease_s
        self._connection = 0
        """In which connection of the bus the stream was looked at, 0: it is to be looked at."""
        self._look_again = self._give_up = 0.0
        """By the monotonic clock: when the stream is looked at next; until when what is claimed may be published."""
        self._flowing = True
        """Whether something of the last batch went through."""

    async def claim(self, most: int) -> Sequence[E]:
        """Looks after the stream first, in each new connection and every now and then: it may have come back empty."""
        if not self._bus.connected:
            return []
        if self._bus.connections != self._connection or time.monotonic() > self._look_again:
            await self._look()
        # Whoever is frozen after this, for longer than its lease, finds its time over when it wakes up.
        self._give_up = time.monotonic() + self._lease_s - PUBLISH_S
        return await self._events.claim_events(min(most, AT_ONCE) if self._flowing else 1, self._lease_s)

    async def act(self, items: Sequence[E]) -> Sequence[Failed | None]:
        """Publishes them side by side."""
        outcomes = await each(self._publish, items, at_once=AT_ONCE)
        self._flowing = None in outcomes
        return outcomes

    async def settle(self, outcomes: Sequence[tuple[E, Failed | None]]) -> None:
        """Marks what is sent."""
        await self._events.settle_events(outcomes)

    async def _look(self) -> None:
        connection = self._bus.connections
        created = await self._bus.ensure_stream(self._stream, self._subjects, self._max_bytes)
        if unsent := await self._events.stream_created(created):
            log.warning("the stream is a new one, events go out again", stream=self._stream, events=unsent)
        self._connection, self._look_again = connection, time.monotonic() + LOOK_EVERY_S

    async def _publish(self, event: E) -> Failed | None:
        if time.monotonic() > self._give_up:
            return Failed("its lease was nearly over before it could be sent")
        if self._bus.connections != self._connection:
            return Failed("the stream has to be looked at first, it may be another one")
        attributes = {
            "messaging.system": "nats",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": event.type,
            "messaging.message.id": str(event.id),
        }
        with (
            logs.about(event.about or None),
            span(f"send {event.type}", SpanKind.PRODUCER, event.traceparent, attributes),
        ):
            try:
                await self._bus.publish(event.type, event.payload, self._headers(event))
            except BusUnavailable as refusal:
                self._connection = 0  # the stream may be full or gone
                _sent.add("nats", event.type, type(refusal).__qualname__)
                raise
            _sent.add("nats", event.type, "")
        return None

    def _headers(self, event: E) -> dict[str, str]:
        """CloudEvents 1.0, NATS protocol binding, binary mode."""
        headers = {
            "Nats-Msg-Id": f"{event.id}/{event.resends}" if event.resends else str(event.id),
            "ce-specversion": "1.0",
            "ce-id": str(event.id),
            "ce-type": event.type,
            "ce-source": self._source,
            "ce-time": event.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "content-type": "application/protobuf",
        }
        if event.about:
            headers["ce-subject"] = event.about
        if traceparent := current_traceparent():
            headers["traceparent"] = traceparent
        return headers
