"""What the services' databases say about one order, on one screen."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from google.protobuf.message import DecodeError
from shop.order.v1 import order_pb2

from services.cli.databases import Databases, Row
from services.cli.order_events import said
from services.cli.process import CannotStart

ORDERS = "select * from audit_orders where order_id = $1"
EVENTS = "select * from audit_order_events where order_id = $1 order by version"
RESERVATIONS = "select * from audit_reservations where reservation_id = $1"
# The ledger has no index by reservation, but one by time.
LEDGER = """
select * from audit_ledger
where reservation_id = $1
  and create_time >= (select create_time from audit_reservations where reservation_id = $1)
  and create_time <= (select update_time from audit_reservations where reservation_id = $1)
order by create_time, id"""
NOTIFICATIONS = "select * from audit_notifications where order_id = $1 order by version, create_time"
# One of an event that was not understood knows no order.
DEAD_LETTERS = """
select dead_letter_id, notification_id, event_type, event_id, reason, attempts, state, create_time
from audit_dead_letters where order_id = $1 or event_id = any($2) order by create_time"""


@dataclass(frozen=True, slots=True)
class Trail:
    """One order, everywhere. The hold of an order has the order's id."""

    order: Row | None
    events: list[Row]
    """One per version; those without a type are told to nobody."""
    reservation: Row | None
    ledger: list[Row]
    notifications: list[Row]
    dead_letters: list[Row]

    @property
    def is_finished(self) -> bool:
        """Settled in Inventory, announced, and the mail about each event in its final state."""
        announced = [event for event in self.events if event["type"]]
        return (
            self.order is not None
            and self.order["settled_time"] is not None
            and all(event["sent_time"] for event in announced)
            and len(self.notifications) >= len(announced)
            and all(each["state"] in ("SENT", "SUPERSEDED", "FAILED") for each in self.notifications)
        )


def order_uuid(text: str) -> UUID:
    """Of `orders/<id>` or the id alone. Raises CannotStart for what is none."""
    try:
        return UUID(text.removeprefix("orders/"))
    except ValueError:
        raise CannotStart(
            f"{text} is no order: give its id, as in orders/1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
        ) from None


async def trail(databases: Databases, order: UUID) -> Trail:
    """A look at everything, each database as it is at its moment."""

    async def of(service: str, *questions: str) -> list[list[Row]]:
        return [await databases.read(service, question, order) for question in questions]

    (orders, events), (reservations, ledger), (notifications,) = await asyncio.gather(
        of("order", ORDERS, EVENTS), of("inventory", RESERVATIONS, LEDGER), of("notification", NOTIFICATIONS)
    )
    event_ids = [str(event["event_id"]) for event in events]
    dead_letters = await databases.read("notification", DEAD_LETTERS, order, event_ids)
    return Trail(
        orders[0] if orders else None, events, reservations[0] if reservations else None, ledger, notifications,
        dead_letters,
    )  # fmt: skip


def money(row: Row) -> str:
    """The total of an order, as EUR 12.50."""
    amount = Decimal(row["total_units"]) + Decimal(row["total_nanos"]) / 10**9
    return f"{row['total_currency']} {amount:.2f}"


def page(order: UUID, trail: Trail) -> str:
    """The order on one screen. Raises CannotStart when there is none."""
    row = require(order, trail)
    head = [
        f"orders/{order}",
        f"  {' '.join(filter(None, (row['state'], row['state_reason'])))}, version {row['version']}, {_settled(row)}",
        f"  customer     {row['email']}  ({row['customer']})",
        f"  total        {money(row)}",
        f"  placed       {row['create_time']:%Y-%m-%d %H:%M:%S} UTC, last change {_clock(row['update_time'])}",
        f"  request id   {row['request_id']}",
    ]
    parts = {
        "history and events": [line for event in trail.events for line in _version(event)],
        "reservation": list(_reservation(trail)),
        "mails": [line for each in trail.notifications for line in _mail(each)] or ["none yet"],
        "dead letters": [_dead_letter(each) for each in trail.dead_letters],
    }
    for title, lines in parts.items():
        if lines:
            head += ["", title, *(f"  {line}" for line in lines)]
    return "\n".join(head)


def document(order: UUID, trail: Trail) -> dict[str, object]:
    """The same for programs: the columns of the views, and what each version says. Raises CannotStart."""
    row = require(order, trail)
    versions = [dict(zip(("state", "reason"), _state(event), strict=True)) for event in trail.events]
    return {
        "order": {**_plain(row), "lines": json.loads(row["lines"])},
        "versions": [{**_plain(event), **says} for event, says in zip(trail.events, versions, strict=True)],
        "reservation": _plain(trail.reservation) if trail.reservation else None,
        "ledger": [_plain(entry) for entry in trail.ledger],
        "notifications": [_plain(each) for each in trail.notifications],
        "dead_letters": [_plain(each) for each in trail.dead_letters],
    }


def _plain(row: Row) -> dict[str, object]:
    """Without what only Protobuf reads; ids and times as text."""
    return {
        name: value if isinstance(value, int | str | list | None) else str(value)
        for name, value in row.items()
        if name != "payload"
    }


def require(order: UUID, trail: Trail) -> Row:
    """Raises CannotStart when there is no such order, and says what there is of it all the same."""
    if trail.order is None:
        held = f", but a reservation that is {trail.reservation['state']}" if trail.reservation else ""
        raise CannotStart(f"there is no order {order}{held}")
    return trail.order


def _settled(order: Row) -> str:
    if order["settled_time"]:
        return f"settled {_clock(order['settled_time'])}"
    trouble = f", {order['last_error']}" if order["last_error"] else ""
    return f"not settled yet: {_times(order['attempts'], 'attempt')}{trouble}"


def _version(event: Row) -> Iterator[str]:
    state, reason = _state(event)
    yield f"version {event['version']}   {_clock(event['create_time'])}  {' '.join(filter(None, (state, reason)))}"
    trace = f", trace {event['traceparent'].split('-')[1]}" if event["traceparent"] else ""
    if not event["type"]:
        yield f"  told to nobody{trace}"
    elif event["sent_time"]:
        again = f", sent again {_times(event['resends'], 'time')}" if event["resends"] else ""
        yield f"  {event['type']}, sent {_clock(event['sent_time'])}{again} as {event['event_id']}{trace}"
    else:
        waits = f" since {_clock(event['unsent_time'])}, to be sent again," if event["unsent_time"] else ""
        tried = f"{_times(event['attempts'], 'attempt')} {event['last_error'] or ''}".strip()
        yield f"  {event['type']}, NOT SENT{waits} after {tried}{trace}"


def _state(event: Row) -> tuple[str, str]:
    """The state of the order as of a version, and why it came to that."""
    try:
        order, _, _ = said(event["type"], event["payload"] or b"")
    except DecodeError:
        return "?", f"(what it says cannot be read: {event['type']})"
    return order_pb2.Order.State.Name(order.state).removeprefix("STATE_"), order.state_reason


def _reservation(trail: Trail) -> Iterator[str]:
    held = trail.reservation
    if held is None:
        yield "none"
        return
    times = f"made {_clock(held['create_time'])}, good until {_clock(held['expire_time'])}"
    yield f"{held['state']} since {_clock(held['update_time'])}, {times}"
    for product, quantity in zip(held["products"], held["quantities"], strict=True):
        yield f"  {quantity:4} x {product}"
    for entry in trail.ledger:
        moved = f"on hand {entry['on_hand_delta']:+d}, reserved {entry['reserved_delta']:+d}"
        yield f"{_clock(entry['create_time'])}  {entry['kind']:10} {entry['product']}  {moved}"


def _mail(each: Row) -> Iterator[str]:
    when = {
        "SENT": f" {_clock(each['send_time'])}",
        "READY": f", next attempt {_clock(each['claimable_time'])}",
        "SENDING": f", until {_clock(each['claimable_time'])}",
    }.get(each["state"], "")
    trouble = f", last error: {each['last_error']}" if each["last_error"] else ""
    twice = f", possibly sent {each['possible_duplicates'] + 1} times" if each["possible_duplicates"] else ""
    attempts = _times(each["attempts"], "attempt")
    yield f"{each['kind']} to {each['recipient']}: {each['state']}{when}, {attempts}{twice}{trouble}"
    yield f"  “{each['subject']}”"


def _dead_letter(each: Row) -> str:
    about = "mail" if each["notification_id"] else each["event_type"]
    return f"{each['dead_letter_id']} {each['state']} since {_clock(each['create_time'])}, {about}: {each['reason']}"


def _times(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _clock(when: datetime | None) -> str:
    return f"{when:%H:%M:%S}.{when.microsecond // 1000:03}" if when else "-"
