"""What the services' databases say about one order."""

import asyncio
import json
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from google.protobuf.message import DecodeError
from shop.order.v1 import order_pb2

from services.story.databases import Readable, Row
from services.story.events import said

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


async def trail(databases: Readable, order: UUID) -> Trail:
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
    return f"{row['total_currency']} {_amount(row['total_units'], row['total_nanos']):.2f}"


@dataclass(frozen=True, slots=True)
class Item:
    """A line of an order, as of when it was placed."""

    product: str
    display_name: str
    quantity: int
    price: Decimal
    """Of one, in the currency of the order."""


def items(row: Row) -> list[Item]:
    """The lines of an order."""
    return [
        Item(line["product"], line["display_name"], line["quantity"], _amount(line["units"], line["nanos"]))
        for line in json.loads(row["lines"])
    ]


def _amount(units: int, nanos: int) -> Decimal:
    return Decimal(units) + Decimal(nanos) / 10**9


def state(event: Row) -> tuple[str, str]:
    """The state of the order as of a version, and why it came to that."""
    try:
        order, _, _ = said(event["type"], event["payload"] or b"")
    except DecodeError:
        return "?", f"(what it says cannot be read: {event['type']})"
    return order_pb2.Order.State.Name(order.state).removeprefix("STATE_"), order.state_reason
