"""`shopmesh order`: one order on one screen, or as a document."""

import json
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from services.cli.safe_text import safe, safe_line
from services.story.asking import CannotTell
from services.story.databases import Row
from services.story.trail import Trail, money, state


def page(order: UUID, trail: Trail) -> str:
    """The order on one screen. Raises CannotTell when there is none."""
    row = require(order, trail)
    head = [
        f"orders/{order}",
        f"  {' '.join(filter(None, (row['state'], row['state_reason'])))}, version {row['version']}, {_settled(row)}",
        f"  customer     {safe_line(row['email'])}  ({safe_line(row['customer'])})",
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
    return safe("\n".join(head))


def document(order: UUID, trail: Trail) -> dict[str, object]:
    """The same for programs: the columns of the views, and what each version says. Raises CannotTell."""
    row = require(order, trail)
    versions = [dict(zip(("state", "reason"), state(event), strict=True)) for event in trail.events]
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
    """Raises CannotTell when there is no such order, and says what there is of it all the same."""
    if trail.order is None:
        held = f", but a reservation that is {trail.reservation['state']}" if trail.reservation else ""
        raise CannotTell(f"there is no order {order}{held}")
    return trail.order


def _settled(order: Row) -> str:
    if order["settled_time"]:
        return f"settled {_clock(order['settled_time'])}"
    trouble = f", {safe_line(order['last_error'])}" if order["last_error"] else ""
    return f"not settled yet: {_times(order['attempts'], 'attempt')}{trouble}"


def _version(event: Row) -> Iterator[str]:
    name, reason = state(event)
    yield f"version {event['version']}   {_clock(event['create_time'])}  {' '.join(filter(None, (name, reason)))}"
    trace = f", trace {event['traceparent'].split('-')[1]}" if event["traceparent"] else ""
    if not event["type"]:
        yield f"  told to nobody{trace}"
    elif event["sent_time"]:
        again = f", sent again {_times(event['resends'], 'time')}" if event["resends"] else ""
        yield f"  {event['type']}, sent {_clock(event['sent_time'])}{again} as {event['event_id']}{trace}"
    else:
        waits = f" since {_clock(event['unsent_time'])}, to be sent again," if event["unsent_time"] else ""
        tried = f"{_times(event['attempts'], 'attempt')} {safe_line(event['last_error'] or '')}".strip()
        yield f"  {event['type']}, NOT SENT{waits} after {tried}{trace}"


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
    trouble = f", last error: {safe_line(each['last_error'])}" if each["last_error"] else ""
    twice = f", possibly sent {each['possible_duplicates'] + 1} times" if each["possible_duplicates"] else ""
    attempts = _times(each["attempts"], "attempt")
    yield f"{each['kind']} to {safe_line(each['recipient'])}: {each['state']}{when}, {attempts}{twice}{trouble}"
    yield f"  “{safe_line(each['subject'])}”"


def _dead_letter(each: Row) -> str:
    about = "mail" if each["notification_id"] else each["event_type"]
    reason = safe_line(each["reason"])
    return f"{each['dead_letter_id']} {each['state']} since {_clock(each['create_time'])}, {about}: {reason}"


def _times(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _clock(when: datetime | None) -> str:
    return f"{when:%H:%M:%S}.{when.microsecond // 1000:03}" if when else "-"
