"""Order's events, as they come from the stream (CloudEvents, binary mode)."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from google.protobuf.message import DecodeError
from shop.order.v1.events_pb2 import OrderCancelled, OrderPlaced, OrderRejected

from services.chassis import logs
from services.chassis.bus.pulling import Message
from services.chassis.messages import from_money, from_timestamp, violations
from services.chassis.tracing import at
from services.notification.domain import Event, Garbled, Kind, Line, News
from services.notification.use_cases import Hearing

STREAM, CONSUMER = "ORDERS", "notification"
# All that Order says: what is not known yet is passed by, and a replica of another version asks for nothing else.
SUBJECTS = (f"{OrderPlaced.DESCRIPTOR.file.package}.*",)

type OrderEvent = OrderPlaced | OrderRejected | OrderCancelled

_KINDS: dict[str, tuple[type[OrderEvent], Kind]] = {
    OrderPlaced.DESCRIPTOR.full_name: (OrderPlaced, Kind.ORDER_PLACED),
    OrderRejected.DESCRIPTOR.full_name: (OrderRejected, Kind.ORDER_REJECTED),
    OrderCancelled.DESCRIPTOR.full_name: (OrderCancelled, Kind.ORDER_CANCELLED),
}


class OrderEvents:
    """Takes what the bus delivers. Returning means that all of it may be acknowledged."""

    def __init__(self, hearing: Hearing) -> None:
        self._hearing = hearing
        self._unknown = Counter[str]()

    async def handle(self, messages: Sequence[Message]) -> None:
        """Raises DatabaseUnavailable; then nothing is acknowledged, and all of it comes again."""
        arrivals = [arrival for message in messages if (arrival := self._read(message))]
        await self._hearing.take(arrivals)

    def _read(self, message: Message) -> News | Garbled | None:
        event = Event(
            type=message.headers.get("ce-type", message.subject),
            id=message.headers.get("ce-id", ""),
            headers=message.headers,
            payload=message.data,
            traceparent=message.traceparent,
        )
        if event.type not in _KINDS:
            self._unknown[event.type] += 1
            with _about(message):
                logs.get().info("event passed by", event_type=event.type, passed_by=self._unknown[event.type])
            return None
        arrival = understand(event)
        if isinstance(arrival, Garbled):
            with _about(message):
                logs.get().error("event is garbled", event_type=event.type, event_id=event.id, reason=arrival.reason)
        return arrival


@contextmanager
def _about(message: Message) -> Iterator[None]:
    """A line about one of several messages belongs to the trace and the order of that one."""
    with at(message.traceparent), logs.about(message.about or None):
        yield


def understand(event: Event) -> News | Garbled:
    """What an event says, to this version."""
    if event.type not in _KINDS:
        return Garbled(event, f"nothing is known of {event.type}")
    type_, kind = _KINDS[event.type]
    try:
        message = type_.FromString(event.payload)
        if faults := violations(message):
            return Garbled(event, "; ".join(f"{field}: {why}" for field, why in faults))
        return _news(event, kind, message)
    except (DecodeError, ValueError, OverflowError) as fault:
        return Garbled(event, f"{type(fault).__name__}: {fault}")


def _news(event: Event, kind: Kind, message: OrderEvent) -> News:
    order = message.order
    if not order.HasField("create_time"):
        raise ValueError("order.create_time is missing")
    return News(
        event=event,
        kind=kind,
        order_id=UUID(_id(order.name, "orders/")),
        version=message.version,
        customer=_id(order.customer, "customers/"),
        recipient=message.recipient,
        placed_at=from_timestamp(order.create_time),
        lines=tuple(Line(line.display_name, line.quantity, from_money(line.unit_price)) for line in order.lines),
        total=from_money(order.total),
        reason=order.state_reason,
        since=from_timestamp(order.update_time) if order.HasField("update_time") else None,
    )


def _id(name: str, collection: str) -> str:
    id = name.removeprefix(collection)
    if id in {"", name}:
        raise ValueError(f"{name!r} does not begin with {collection}")
    return id
