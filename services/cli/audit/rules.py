"""What must agree about an order in the databases of three services and in the stream, and who mends it if not.

Nothing here reads: rows of the `audit_*` views come in, differences come out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID, uuid5

import orjson


class Row(Protocol):
    """Of an `audit_*` view."""

    def __getitem__(self, column: str, /) -> Any: ...  # noqa: ANN401  asyncpg's rows have no types


type Ids = dict[str, str]

_EVENTS = {
    "shop.order.v1.OrderPlaced": ("PLACED", "ORDER_PLACED"),
    "shop.order.v1.OrderRejected": ("REJECTED", "ORDER_REJECTED"),
    "shop.order.v1.OrderCancelled": ("CANCELLED", "ORDER_CANCELLED"),
}
"""Event: the state that the order has from then on, and the kind of mail about it."""

_SETTLE = (
    "in Order's database: update orders set settled_time = null, claimed_until = now() where id = '{order}'; "
    "the settler then brings Inventory to what the order says"
)
_RESEND = "`shopmesh resend {order}` sends its events again; effects stay single"
_BACKUP = "no process does this: compare with a backup, and find out who wrote to the database of {database}"

MENDS = {
    "event-missing": _BACKUP.format(database="Order"),
    "event-without-order": _BACKUP.format(database="Order"),
    "event-id": _BACKUP.format(database="Order"),
    "event-state": _BACKUP.format(database="Order"),
    "event-payload": _BACKUP.format(database="Order"),
    "event-late": "the relay sends it once NATS takes it: `shopmesh status`, `shopmesh logs order`",
    "message-missing": _RESEND,
    "message-twice": "nothing is lost, readers know it by its ce-id: find out who else publishes to the stream",
    "message-unknown": "find out who else publishes to the stream, or whether Order's database is an older one",
    "message-differs": "the row is what Order said: " + _RESEND,
    "stream-missing": "Order makes it again within seconds, and sends the last day's events: `shopmesh logs order`",
    "stream-unnoticed": "Order looks at the stream every few seconds: `shopmesh status`, `shopmesh logs order`",
    "order-late": "the settler settles it once Inventory answers: `shopmesh status`, `shopmesh logs order`",
    "reservation-state": _SETTLE,
    "reservation-lines": _BACKUP.format(database="Inventory"),
    "reservation-without-order": "pieces have left for an order that is not there: restore Order's database from a "
    "backup, or put the pieces back with AdjustStock",
    "reservation-ledger": _BACKUP.format(database="Inventory"),
    "hold-late": "the reaper ends it: `shopmesh config get inventory reap_interval`, `shopmesh logs inventory`",
    "stock-bounds": _BACKUP.format(database="Inventory"),
    "stock-ledger": "find the row by `reservation-ledger`, if there is one; count the pieces and correct with "
    "AdjustStock, or restore Inventory's database",
    "stock-held": "find the row by `reservation-ledger`, if there is one; else restore Inventory's database",
    "notification-missing": "Notification hears it once it runs: `shopmesh logs notification`; else " + _RESEND,
    "notification-twice": _BACKUP.format(database="Notification"),
    "notification-without-event": "restore Order's database, or find out who else publishes to the stream",
    "notification-addressee": "somebody else may have had the mail: " + _BACKUP.format(database="Notification"),
    "mail-late": "the sender takes it once it runs: `shopmesh status`, `shopmesh logs notification`",
    "mail-superseded": "the customer was not told: " + _BACKUP.format(database="Notification"),
    "mail-failed": "the customer was not told, and nobody knows: in Notification's database, update notifications set "
    "state = 'READY', claimable_time = now() where id = '{notification}'",
    "dead-letter": "`shopmesh deadletters show {dead_letter}`, then `redrive` once the cause is mended, or `discard`",
}
"""Every kind of difference, and what to do about it; docs/operating.md says what each means."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Two places that do not say the same, or something that takes longer than it may."""

    kind: str
    """One of MENDS."""
    ids: Ids
    """Of what differs: order, version, event, reservation, product, notification, dead_letter, sequence."""
    what: str
    since: datetime | None = None
    """Of what is late: since when it waits."""

    @property
    def key(self) -> tuple[object, ...]:
        """The same again, when nothing has changed."""
        return self.kind, tuple(self.ids.items()), self.what, self.since

    @property
    def mend(self) -> str:
        return MENDS[self.kind].format_map(self.ids)


@dataclass(slots=True)
class Case:
    """All there is about one order, as it was read."""

    id: UUID
    order: Row | None = None
    events: list[Row] = field(default_factory=list[Row])
    """By version."""
    reservation: Row | None = None
    notifications: list[Row] = field(default_factory=list[Row])


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a case is judged by."""

    now: datetime
    """By Order's database."""
    late: timedelta
    """How long the workers may take for a step."""
    buried: frozenset[str]
    """Ids of events that lie among the dead letters."""
    copies: Callable[[UUID], int] | None
    """How often an event is in the stream, when that was looked at."""
    complete_since: datetime | None
    """What was sent after that is in the stream."""

    def is_late(self, since: datetime) -> bool:
        return since < self.now - self.late


def judged(case: Case, by: Surroundings) -> list[Difference]:
    """Everything about one order that does not agree and is not on its way."""
    return [*_history(case), *_events(case, by), *_reservation(case, by), *_mails(case, by)]


def _history(case: Case) -> Iterator[Difference]:
    order, versions = case.order, [event["version"] for event in case.events]
    ids = {"order": str(case.id)}
    if order is None:
        if versions:
            yield Difference("event-without-order", ids, f"there is no such order, but {_versions(versions)} of it")
        return
    if versions != list(range(1, order["version"] + 1)):
        had = _versions(versions) if versions else "no version"
        yield Difference("event-missing", ids, f"it is at version {order['version']}, its history has {had}")
    elif (says := _state_after(case.events[-1])) not in (None, order["state"]):
        yield Difference("event-state", ids, f"it is {order['state']}, its last version says {says}")


def _state_after(event: Row) -> str | None:
    """None for an event that is younger than this command."""
    if event["type"] is None:
        return "PENDING_STOCK"
    return _EVENTS[event["type"]][0] if event["type"] in _EVENTS else None


def _events(case: Case, by: Surroundings) -> Iterator[Difference]:
    for event in case.events:
        ids = {"order": str(case.id), "version": str(event["version"]), "event": str(event["event_id"])}
        right = uuid5(case.id, str(event["version"])) if event["type"] else None
        if event["event_id"] != right:
            yield Difference("event-id", ids, f"its id must be {right}")
        elif event["type"]:
            yield from _sending(event, ids, by)


def _sending(event: Row, ids: Ids, by: Surroundings) -> Iterator[Difference]:
    copies, sent = by.copies(event["event_id"]) if by.copies else None, event["sent_time"]
    if sent is None:
        since = event["unsent_time"] or event["create_time"]
        if by.is_late(since):
            yield Difference("event-late", ids, f"{event['type']} is not sent", since)
    elif copies == 0 and by.complete_since and sent >= by.complete_since:
        yield Difference("message-missing", ids, f"{event['type']} is sent and not in the stream")
    # More are explained where an attempt ended without an answer.
    if copies and copies > max(event["attempts"], 1 + event["resends"]):
        yield Difference("message-twice", ids, f"{event['type']} is in the stream {copies} times")


def _reservation(case: Case, by: Surroundings) -> Iterator[Difference]:
    order, held = case.order, case.reservation
    state = held["state"] if held else "absent"
    ids = {"order": str(case.id), "reservation": str(case.id)}
    if order is None:
        if state == "CONFIRMED":
            yield Difference("reservation-without-order", ids, "it is CONFIRMED, and there is no such order")
    elif order["settled_time"] is None:
        yield from _settling(order, by)
    elif state != (wanted := "CONFIRMED" if order["state"] == "PLACED" else "RELEASED"):
        yield Difference("reservation-state", ids, f"the order is {order['state']} and settled: {state}, not {wanted}")
    if held and state == "HELD" and by.is_late(held["expire_time"]):
        yield Difference("hold-late", ids, "it is HELD though its time is over", held["expire_time"])
    if order and held and held["products"] and _pieces(order) != _held(held):
        yield Difference("reservation-lines", ids, f"it is for {_listed(_held(held))}, not {_listed(_pieces(order))}")


def _settling(order: Row, by: Surroundings) -> Iterator[Difference]:
    """A pending order may wait for Inventory as long as the operator allows: it is late when nobody tries."""
    ids = {"order": str(order["order_id"])}
    waits = max(order["update_time"], order["claimed_until"]) if order["state"] == "PENDING_STOCK" else None
    if by.is_late(waits or order["update_time"]):
        yield Difference("order-late", ids, f"it is {order['state']} and not settled", order["update_time"])


def _pieces(order: Row) -> dict[str, int]:
    return {line["product"]: line["quantity"] for line in orjson.loads(order["lines"])}


def _held(reservation: Row) -> dict[str, int]:
    return dict(zip(reservation["products"], reservation["quantities"], strict=True))


def _listed(pieces: Mapping[str, int]) -> str:
    return ", ".join(f"{quantity} x {product}" for product, quantity in sorted(pieces.items()))


def _mails(case: Case, by: Surroundings) -> Iterator[Difference]:
    told = set[str]()
    for each in case.notifications:
        ids = {"order": str(case.id), "notification": str(each["notification_id"])}
        if each["kind"] in told:
            yield Difference("notification-twice", ids, f"there is another {each['kind']} of the order")
        told.add(each["kind"])
        yield from _heard(each, ids, case)
        yield from _mail(each, ids, case.notifications, by)
    for event in case.events:
        _, kind = _EVENTS.get(event["type"], (None, None))
        if kind is None or kind in told or event["sent_time"] is None or not by.is_late(event["sent_time"]):
            continue
        if str(event["event_id"]) not in by.buried:
            ids = {"order": str(case.id), "version": str(event["version"]), "event": str(event["event_id"])}
            yield Difference("notification-missing", ids, f"there is no {kind}", event["sent_time"])


def _heard(notification: Row, ids: Ids, case: Case) -> Iterator[Difference]:
    event = next((event for event in case.events if event["version"] == notification["version"]), None)
    said = (event["type"], str(event["event_id"])) if event else None
    _, kind = _EVENTS.get(notification["event_type"], (None, None))
    if said != (notification["event_type"], notification["event_id"]) or kind != notification["kind"]:
        what = f"{notification['kind']} of version {notification['version']} has no event that says so"
        yield Difference("notification-without-event", ids, what)
    elif case.order:
        for theirs, ours in (("customer", "customer"), ("recipient", "email")):
            if notification[theirs] != case.order[ours]:
                what = f"its {theirs} is {notification[theirs]}, the order's is {case.order[ours]}"
                yield Difference("notification-addressee", ids, what)


def _mail(notification: Row, ids: Ids, all: Sequence[Row], by: Surroundings) -> Iterator[Difference]:
    match notification["state"]:
        case "READY" | "SENDING" as state if by.is_late(notification["claimable_time"]):
            what = f"{notification['kind']} is {state} and nobody takes it"
            yield Difference("mail-late", ids, what, notification["claimable_time"])
        case "SUPERSEDED" if notification["version"] == max(each["version"] for each in all):
            yield Difference("mail-superseded", ids, f"{notification['kind']} is SUPERSEDED, and none is newer")
        case "FAILED" if notification["dead_letter_state"] not in ("OPEN", "DISCARDED"):
            yield Difference("mail-failed", ids, f"{notification['kind']} is FAILED without a dead letter")
        case _:
            pass


def _versions(versions: Sequence[int]) -> str:
    return f"version{'s' * (len(versions) > 1)} {', '.join(map(str, versions))}"


def stock(row: Row) -> Iterator[Difference]:
    """The counters of a product, against its ledger and the holds."""
    ids, on_hand, reserved = {"product": row["product"]}, row["on_hand"], row["reserved"]
    if on_hand is None:
        yield Difference(
            "stock-ledger", ids, "there is no such row of stock, but some in the ledger or in reservations"
        )
        return
    if not 0 <= reserved <= on_hand:
        yield Difference("stock-bounds", ids, f"{reserved} of {on_hand} are reserved")
    for counter, booked in ((on_hand, "on_hand"), (reserved, "reserved")):
        if counter != row[f"booked_{booked}"]:
            what = f"{booked} is {counter}, the ledger adds up to {row[f'booked_{booked}']}"
            yield Difference("stock-ledger", ids, what)
    if reserved != row["held"]:
        yield Difference("stock-held", ids, f"{reserved} are reserved, and {row['held']} are HELD")


def ledger(row: Row) -> Difference:
    """A reservation whose rows in the ledger are not those of its state."""
    ids = {"reservation": str(row["reservation_id"]), "product": row["product"]}
    moved, right = (f"on_hand {row[of + 'on_hand']:+d}, reserved {row[of + 'reserved']:+d}" for of in ("booked_", ""))
    return Difference("reservation-ledger", ids, f"it is {row['state']} ({right}), and its ledger says {moved}")


def dead_letter(row: Row) -> Difference:
    """What waits for a person."""
    ids = {"dead_letter": str(row["dead_letter_id"]), "event": row["event_id"]}
    if row["order_id"]:
        ids = {"order": str(row["order_id"]), **ids}
    return Difference("dead-letter", ids, f"{row['event_type']}: {row['reason']}", row["create_time"])


def moment(time: datetime | None) -> str:
    """To the second, in UTC."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else "never"
