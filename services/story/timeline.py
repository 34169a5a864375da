"""What happened to an order, on one line of time, and what is still to come."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from services.story.databases import Row
from services.story.trail import Trail, state


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Something that happened."""

    when: datetime
    where: str
    """The service that wrote it down."""
    what: str
    details: Sequence[str] = ()
    trace_id: str = ""
    bad: bool = False
    """Somebody should look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Something that is not done yet."""

    where: str
    what: str
    due: datetime | None = None
    """When it is tried next, or ends."""


def moments(trail: Trail) -> list[Moment]:
    """By time. What one transaction of a service did to stock is one moment."""
    found = [*_versions(trail), *_sent(trail), *_stock(trail), *_mails(trail), *_dead_letters(trail)]
    if trail.order and trail.order["settled_time"]:
        found.append(Moment(when=trail.order["settled_time"], where="order", what="settled with inventory"))
    return sorted(found, key=lambda moment: moment.when)


def pending(trail: Trail, away: Collection[str] = ()) -> list[Pending]:
    """What the workers of the services are about to do; empty when the order has come to rest.

    `away`: services whose part of the trail could not be read.
    """
    found = list[Pending]()
    order, held = trail.order, trail.reservation
    if order and not order["settled_time"]:
        tried = f" ({_times(order['attempts'], 'attempt')}, {order['last_error']})" if order["last_error"] else ""
        found.append(Pending(where="order", what=f"to be settled with inventory{tried}", due=order["claimed_until"]))
    for event in trail.events:
        if event["type"] and not event["sent_time"]:
            again = " again" if event["unsent_time"] else ""
            tried = f" ({_times(event['attempts'], 'attempt')}, {event['last_error']})" if event["last_error"] else ""
            found.append(Pending(where="order", what=f"{_short(event['type'])} is to be sent{again}{tried}"))
    if held and held["state"] == "HELD":
        found.append(Pending(where="inventory", what="the hold is good until", due=held["expire_time"]))
    for mail in trail.notifications:
        if mail["state"] in ("READY", "SENDING"):
            trouble = f" (last error: {mail['last_error']})" if mail["last_error"] else ""
            doing = "is being sent" if mail["state"] == "SENDING" else "is to be sent"
            found.append(
                Pending(where="notification", what=f"“{mail['subject']}” {doing}{trouble}", due=mail["claimable_time"])
            )
    announced = {event["version"] for event in trail.events if event["type"] and event["sent_time"]}
    for version in sorted(announced - {mail["version"] for mail in trail.notifications}):
        if not trail.dead_letters and "notification" not in away:
            found.append(Pending(where="notification", what=f"has not heard of version {version} yet"))
    return found


def traces(trail: Trail) -> list[str]:
    """Ids of the traces that made the versions of the order and its mails, each once."""
    parents = [row["traceparent"] for row in (*trail.events, *trail.notifications)]
    return list(dict.fromkeys(filter(None, map(_trace_id, parents))))


def _versions(trail: Trail) -> Iterator[Moment]:
    for event in trail.events:
        name, reason = state(event)
        yield Moment(
            when=event["create_time"],
            where="order",
            what=" ".join(filter(None, (name, reason))),
            details=(f"version {event['version']}",),
            trace_id=_trace_id(event["traceparent"]),
            bad=name == "?",
        )


def _sent(trail: Trail) -> Iterator[Moment]:
    for event in trail.events:
        if event["type"] and event["sent_time"]:
            again = (f"sent again {_times(event['resends'], 'time')}",) if event["resends"] else ()
            yield Moment(
                when=event["sent_time"],
                where="order",
                what=f"sent {_short(event['type'])}",
                details=(*again, f"event {event['event_id']}"),
                trace_id=_trace_id(event["traceparent"]),
            )


def _stock(trail: Trail) -> Iterator[Moment]:
    for (when, kind), entries in groupby(trail.ledger, lambda entry: (entry["create_time"], entry["kind"])):
        moved = [f"{entry['product']}: {', '.join(_moved(entry))}" for entry in entries]
        yield Moment(when=when, where="inventory", what=kind, details=moved)
    held = trail.reservation
    if held and held["state"] not in {entry["kind"] for entry in trail.ledger}:  # no counter moved
        yield Moment(when=held["update_time"], where="inventory", what=held["state"])


def _moved(entry: Row) -> Iterator[str]:
    for column, name in (("on_hand_delta", "on hand"), ("reserved_delta", "reserved")):
        if entry[column]:
            yield f"{name} {entry[column]:+d}"


_MAIL_ENDS: Mapping[str, str] = {"SUPERSEDED": "mail left out, a newer one was sent", "FAILED": "mail given up"}


def _mails(trail: Trail) -> Iterator[Moment]:
    for mail in trail.notifications:
        subject = f"“{mail['subject']}”"
        trace_id = _trace_id(mail["traceparent"])
        yield Moment(
            when=mail["create_time"],
            where="notification",
            what=f"heard of version {mail['version']}",
            details=(f"{mail['kind']}: a mail is to be sent",),
            trace_id=trace_id,
        )
        if mail["send_time"]:
            twice = mail["possible_duplicates"]
            details = (
                f"{subject} to {mail['recipient']}",
                *([_times(mail["attempts"], "attempt")] if mail["attempts"] != 1 else []),
                *([f"possibly sent {twice + 1} times"] if twice else []),
            )
            yield Moment(
                when=mail["send_time"], where="notification", what="mail sent", details=details, trace_id=trace_id
            )
        elif end := _MAIL_ENDS.get(mail["state"]):
            error = (mail["last_error"],) if mail["last_error"] else ()
            yield Moment(
                when=mail["claimable_time"] or mail["create_time"],
                where="notification",
                what=end,
                details=(subject, *error),
                bad=mail["state"] == "FAILED",
                trace_id=trace_id,
            )


def _dead_letters(trail: Trail) -> Iterator[Moment]:
    for dead in trail.dead_letters:
        about = "the mail" if dead["notification_id"] else _short(dead["event_type"] or "an event")
        yield Moment(
            when=dead["create_time"],
            where="notification",
            what=f"dead letter, {dead['state']}",
            details=(f"{about}: {dead['reason']}", f"deadLetters/{dead['dead_letter_id']}"),
            bad=dead["state"] == "OPEN",
        )


def _short(event_type: str) -> str:
    """OrderPlaced, of shop.order.v1.OrderPlaced."""
    return event_type.rpartition(".")[2]


def _trace_id(traceparent: str | None) -> str:
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) == 4 else ""


def _times(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
