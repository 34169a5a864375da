"""What Order's events say."""

from google.protobuf.message import DecodeError
from shop.order.v1 import events_pb2, order_pb2

_MESSAGES = {
    message.DESCRIPTOR.full_name: message
    for message in (events_pb2.OrderPlaced, events_pb2.OrderRejected, events_pb2.OrderCancelled)
}


def said(type: str | None, payload: bytes) -> tuple[order_pb2.Order, int | None, str | None]:
    """The order in an event, its version and recipient; a version that nobody is told of is the order alone.

    Raises DecodeError, also for an event that is younger than this release.
    """
    if type is None:
        return order_pb2.Order.FromString(payload), None, None
    if type not in _MESSAGES:
        raise DecodeError(f"nothing is known of {type}")
    event = _MESSAGES[type].FromString(payload)
    return event.order, event.version, event.recipient
