"""Orders and what is said of them, as shop.order.v1 writes them."""

from uuid import UUID, uuid5

from google.protobuf.message import Message
from shop.order.v1 import events_pb2, order_pb2

from services.chassis.messages import to_money, to_timestamp
from services.order.domain import Event, Order, OrderCancelled, OrderPlaced, OrderRejected, State

STATES = {
    State.PENDING_STOCK: order_pb2.Order.STATE_PENDING_STOCK,
    State.PLACED: order_pb2.Order.STATE_PLACED,
    State.REJECTED: order_pb2.Order.STATE_REJECTED,
    State.CANCELLED: order_pb2.Order.STATE_CANCELLED,
}

_EVENTS: dict[type[Event], type[events_pb2.OrderPlaced | events_pb2.OrderRejected | events_pb2.OrderCancelled]] = {
    OrderPlaced: events_pb2.OrderPlaced,
    OrderRejected: events_pb2.OrderRejected,
    OrderCancelled: events_pb2.OrderCancelled,
}

EVENT_TYPES = tuple(message.DESCRIPTOR.full_name for message in _EVENTS.values())
"""Full names of all events: their types, and their subjects."""


def order_message(order: Order) -> order_pb2.Order:
    """The order as its customer sees it."""
    return order_pb2.Order(
        name=f"orders/{order.id}",
        customer=f"customers/{order.customer.id}",
        lines=[
            order_pb2.Order.Line(
                product=f"products/{line.product}",
                display_name=line.display_name,
                quantity=line.quantity,
                unit_price=to_money(line.unit_price),
            )
            for line in order.lines
        ],
        total=to_money(order.total),
        state=STATES[order.state],
        state_reason=order.state_reason,
        create_time=to_timestamp(order.create_time),
        update_time=to_timestamp(order.update_time),
        etag=order.etag,
    )


def event_message(event: Event) -> Message:
    """What everybody is told: the whole order, so that nobody has to ask back."""
    order = event.order
    return _EVENTS[type(event)](order=order_message(order), version=order.version, recipient=order.customer.email)


def order_of(type: str | None, payload: bytes) -> order_pb2.Order:
    """The order in a row of order_events: all of the payload, or the first field of an event, of a newer one too."""
    return order_pb2.Order.FromString(payload) if type is None else events_pb2.OrderPlaced.FromString(payload).order


def event_id(order: Order) -> UUID:
    """Of what is said about this version of the order; the same for ever."""
    return uuid5(order.id, str(order.version))
