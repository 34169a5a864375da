"""What the services' databases say about one order, read from their `audit_*` views as the role `audit`."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Self
from uuid import UUID

import asyncpg

from services.cli.process import CannotStart
from services.cli.settings import HOST

type Row = asyncpg.Record
"""A row of a view; the views are described in the first migration of the service that owns them."""

ORDERS = "select * from audit_orders where order_id = $1"
EVENTS = "select * from audit_order_events where order_id = $1 order by version"
RESERVATIONS = "select * from audit_reservations where reservation_id = $1"
LINES = "select * from audit_reservation_lines where reservation_id = $1 order by product"
LEDGER = "select * from audit_ledger where reservation_id = $1 order by create_time, id"
NOTIFICATIONS = "select * from audit_notifications where order_id = $1 order by create_time"


@dataclass(frozen=True, slots=True)
class Trail:
    """One order, everywhere. The hold of an order has the order's id."""

    order: Row | None
    events: list[Row]
    reservation: Row | None
    lines: list[Row]
    ledger: list[Row]
    notifications: list[Row]

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


def urls(port: int) -> dict[str, str]:
    """Of the databases that know orders, by service, for the role `audit`."""
    return {
        service: f"postgresql://audit@{HOST}:{port}/{service}" for service in ("order", "inventory", "notification")
    }


class Databases:
    """Read-only connections to the three databases that know orders: `async with Databases(port) as databases`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: dict[str, asyncpg.Connection[asyncpg.Record]] = {}

    async def __aenter__(self) -> Self:
        for service, url in urls(self._port).items():
            try:
                self._connections[service] = await asyncpg.connect(url, timeout=5)
            except (OSError, TimeoutError, asyncpg.PostgresError) as error:
                await self.__aexit__()
                raise CannotStart(
                    f"the database of {service} does not answer ({error}): see `shopmesh status`"
                ) from None
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections.values():
            await connection.close()

    async def trail(self, order: UUID) -> Trail:
        """A look at everything, each database as it is at its moment."""

        async def of(service: str, *questions: str) -> list[list[Row]]:
            return [list(await self._connections[service].fetch(question, order)) for question in questions]

        (orders, events), (reservations, lines, ledger), (notifications,) = await asyncio.gather(
            of("order", ORDERS, EVENTS), of("inventory", RESERVATIONS, LINES, LEDGER), of("notification", NOTIFICATIONS)
        )
        return Trail(
            orders[0] if orders else None,
            events,
            reservations[0] if reservations else None,
            lines,
            ledger,
            notifications,
        )


def money(row: Row) -> str:
    """The total of an order, as EUR 12.50."""
    amount = Decimal(row["total_units"]) + Decimal(row["total_nanos"]) / 10**9
    return f"{row['total_currency']} {amount:.2f}"


def page(order: UUID, trail: Trail) -> str:
    """The order on one screen."""
    row = trail.order
    if row is None:
        held = f", but a reservation that is {trail.reservation['state']}" if trail.reservation else ""
        raise CannotStart(f"there is no order {order}{held}")
    settled = f"settled {_clock(row['settled_time'])}" if row["settled_time"] else "not settled yet"
    lines = [
        f"orders/{order}",
        f"  {' '.join(filter(None, (row['state'], row['state_reason'])))}, version {row['version']}, {settled}",
        f"  customer     {row['email']}  ({row['customer']})",
        f"  total        {money(row)}",
        f"  placed       {row['create_time']:%Y-%m-%d %H:%M:%S} UTC, last change {_clock(row['update_time'])}",
        f"  request id   {row['request_id']}",
        "",
        "history and events",
        *(f"  {_event(event)}" for event in trail.events),
        "",
        "reservation",
        *_reservation(trail),
        "",
        "mails",
        *(f"  {_mail(each)}" for each in trail.notifications),
    ]
    if not trail.notifications:
        lines.append("  none yet")
    return "\n".join(lines)


def _event(event: Row) -> str:
    if not event["type"]:
        said = "no event"
    elif event["sent_time"]:
        said = f"{event['type']}, sent {_clock(event['sent_time'])} as {event['event_id']}"
    else:
        said = f"{event['type']}, NOT SENT after {event['attempts']} attempts {event['last_error'] or ''}"
    return f"version {event['version']}    {_clock(event['create_time'])}  {said}"


def _reservation(trail: Trail) -> list[str]:
    held = trail.reservation
    if held is None:
        return ["  none"]
    times = f"held {_clock(held['create_time'])}, expiry {_clock(held['expire_time'])}"
    return [
        f"  {held['state']} since {_clock(held['update_time'])}, {times}",
        *(f"    {line['quantity']:4} x {line['product']}" for line in trail.lines),
        *(f"  {_entry(entry)}" for entry in trail.ledger),
    ]


def _entry(entry: Row) -> str:
    moved = f"on hand {entry['on_hand_delta']:+d}, reserved {entry['reserved_delta']:+d}"
    return f"{_clock(entry['create_time'])}  {entry['kind']:10} {entry['product']}  {moved}"


def _mail(each: Row) -> str:
    sent = f" {_clock(each['send_time'])}" if each["send_time"] else ""
    trouble = f", last error: {each['last_error']}" if each["last_error"] else ""
    twice = f", possibly sent {each['possible_duplicates'] + 1} times" if each["possible_duplicates"] else ""
    return (
        f"{each['kind']} to {each['recipient']}: {each['state']}{sent}, {each['attempts']} attempt(s){twice}{trouble}\n"
        f"    “{each['subject']}”"
    )


def _clock(when: datetime | None) -> str:
    return f"{when:%H:%M:%S}.{when.microsecond // 1000:03}" if when else "-"
