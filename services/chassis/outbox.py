"""The relay: events that were written with what they tell of go to the bus, each order's one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from services.chassis import logs
from services.chassis.bus import Bus, BusUnavailable
from services.chassis.tracing import SpanKind, current_traceparent, span
from services.chassis.worker import Failed, each

AT_ONCE = 64

log = logs.get()


@dataclass(frozen=True, slots=True)
class Event:
    id: UUID
    """The same for ever: readers know an event by it, however often it comes."""
    type: str
    """Full name of its message, and the subject that it is published to."""
    time: datetime
    payload: bytes
    traceparent: str | None
    resends: int = 0
    """How often it was unsent after it had been sent. The stream drops what it has seen by message id, so each resend
    has its own."""


class Events[E: Event](Protocol):
    """The table of events, as the relay needs it."""

    async def claim_events(self, most: int) -> Sequence[E]:
        """Leases unsent ones of which no earlier unsent one of the same thing exists, oldest first."""
        ...

    async def settle_events(self, outcomes: Sequence[tuple[E, Failed | None]]) -> None:
        """None: it is sent. Failed: keeps the error and backs off. Only those whose lease is still ours."""
        ...

    async def stream_created(self, time: datetime) -> int:
        """Remembers when the stream was made, and returns how many events that made unsent, in one transaction.

        If it is not the time known so far, the stream was lost: sent events younger than a day are unsent, with
        `resends` + 1.
        """
        ...


class Relay[E: Event]:
    """A job for a Worker: claims nothing while the bus is away."""

    name = "relay"

    def __init__(self, events: Events[E], bus: Bus, *, stream: str, subjects: Sequence[str], source: str) -> None:
        """`source` is the CloudEvents source, such as `/shop/order`."""
        self._events, self._bus = events, bus
        self._stream, self._subjects, self._source = stream, subjects, source
        self._looked = 0
        """In which connection of the bus the stream was looked at."""

    async def claim(self, most: int) -> Sequence[E]:
        """Looks after the stream first, once per connection: NATS may have come back empty."""
        if not self._bus.connected:
            return []
        connection = self._bus.connections
        if connection != self._looked:
            created = await self._bus.ensure_stream(self._stream, self._subjects)
            if unsent := await self._events.stream_created(created):
                log.warning("the stream is a new one, events go out again", stream=self._stream, events=unsent)
            self._looked = connection
        return await self._events.claim_events(min(most, AT_ONCE))

    async def act(self, items: Sequence[E]) -> Sequence[Failed | None]:
        """Publishes them side by side."""
        return await each(self._publish, items, at_once=AT_ONCE)

    async def settle(self, outcomes: Sequence[tuple[E, Failed | None]]) -> None:
        """Marks what is sent."""
        await self._events.settle_events(outcomes)

    async def _publish(self, event: E) -> None:
        attributes = {
            "messaging.system": "nats",
            "messaging.operation.type": "send",
            "messaging.destination.name": event.type,
            "messaging.message.id": str(event.id),
        }
        with span(f"send {event.type}", SpanKind.PRODUCER, event.traceparent, attributes):
            try:
                await self._bus.publish(event.type, event.payload, self._headers(event))
            except BusUnavailable:
                self._looked = 0  # the stream may be gone
                raise

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
        if traceparent := current_traceparent():
            headers["traceparent"] = traceparent
        return headers
