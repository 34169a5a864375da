"""Which events lie in the stream, as `shopmesh audit` compares it with the rows."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby, islice
from uuid import UUID

import orjson
from google.protobuf.message import DecodeError
from shop.order.v1 import order_pb2

from services.chassis.bus.looking import Looking, Stored, StreamContents
from services.cli.audit.rows import EVENTS_BY_VERSION
from services.cli.audit.rules import Case, Difference, Row
from services.story.databases import Databases
from services.story.events import said

STREAM = "ORDERS"
MARKED = timedelta(seconds=15)
"""An event that was sent may be marked so much later: its replica died, and another one sent it again."""


@dataclass(slots=True)
class InStream:
    """The ce-ids of a stream, each as a number of 64 bits, which are random enough to tell millions apart."""

    complete_since: datetime | None = None
    """What was sent after that must be here."""
    next: int = 0
    """The sequence that is read next."""
    messages: int = 0
    distinct: int = 0
    without_id: list[int] = field(default_factory=list[int])
    _ids: array[int] = field(default_factory=lambda: array("Q"))
    _sequences: array[int] = field(default_factory=lambda: array("Q"))
    _known: bytearray = field(default_factory=bytearray)

    def add(self, some: Sequence[Stored]) -> None:
        """What is read in a row; `sort` when that is all."""
        for message in some:
            try:
                id = UUID(message.headers["ce-id"])
            except (KeyError, ValueError):
                self.without_id.append(message.sequence)
                continue
            self._ids.append(_short(id))
            self._sequences.append(message.sequence)
        self.messages += len(some)
        self.next = some[-1].sequence + 1

    def sort(self) -> None:
        order = sorted(range(len(self._ids)), key=self._ids.__getitem__)
        self._ids = array("Q", (self._ids[place] for place in order))
        self._sequences = array("Q", (self._sequences[place] for place in order))
        self._known = bytearray(len(self._ids))
        self.distinct = sum(1 for _ in groupby(self._ids))

    def copies(self, event_id: UUID) -> int:
        """How often an event is here. Whoever asks knows it."""
        wanted, copies = _short(event_id), 0
        place = bisect_left(self._ids, wanted)
        while place + copies < len(self._ids) and self._ids[place + copies] == wanted:
            self._known[place + copies] = 1
            copies += 1
        return copies

    def unknown(self, most: int) -> list[int]:
        """Sequences of what nobody has asked for."""
        unknown = (self._sequences[place] for place, known in enumerate(self._known) if not known)
        return [*self.without_id[:most], *islice(unknown, most)]


def _short(id: UUID) -> int:
    return id.int >> 64


@dataclass(frozen=True, slots=True)
class Found:
    """Of a stream that is there."""

    created: datetime
    differences: list[Difference]
    """Of its messages from the rows, as far as those were compared."""


async def read(looking: Looking, into: InStream, since: datetime | None, databases: Databases | None) -> Found | None:
    """Reads on, from `since` at first, or from the beginning; None when there is no stream.

    With `databases` messages are read whole, and compared with the rows of their events.
    """
    contents = await looking.contents(STREAM)
    if contents is None:
        return None
    start = into.next or since or max(contents.first, 1)
    differences = list[Difference]()
    async for some in looking.stored(STREAM, start, headers_only=databases is None):
        into.add(some)
        if databases:
            differences += await differing(some, databases)
    into.sort()
    into.complete_since = await _complete_since(looking, contents, since)
    return Found(contents.created, differences)


async def _complete_since(looking: Looking, contents: StreamContents, since: datetime | None) -> datetime | None:
    """Nothing is missing at the beginning of a stream that was never purged."""
    if contents.first <= 1:
        first = contents.created
    elif oldest := await looking.message(STREAM, contents.first):
        first = oldest.time + MARKED
    else:
        return None
    return max(first, since + MARKED) if since else first


async def differing(messages: Sequence[Stored], databases: Databases) -> list[Difference]:
    """Messages that are not what the row of their event says."""
    wanted: dict[int, tuple[UUID, int]] = {}
    differences = list[Difference]()
    for message in messages:
        try:
            order, version, _ = said(message.headers.get("ce-type", message.subject), message.data)
            wanted[message.sequence] = UUID(order.name.removeprefix("orders/")), version or 0
        except (DecodeError, ValueError) as error:
            differences.append(Difference("message-unknown", _ids(message), f"it cannot be read: {error}"))
    rows = await databases.read("order", EVENTS_BY_VERSION, *zip(*wanted.values(), strict=True)) if wanted else []
    events = {(row["order_id"], row["version"]): row for row in rows}
    for message in messages:
        if message.sequence in wanted:
            differences += _compared(message, events.get(wanted[message.sequence]), *wanted[message.sequence])
    return differences


def _compared(message: Stored, event: Row | None, order: UUID, version: int) -> Iterator[Difference]:
    ids = {"order": str(order), "version": str(version), **_ids(message)}
    if event is None or event["type"] is None:
        yield Difference("message-unknown", ids, "there is no event of this version")
        return
    parts = {
        "ce-id": (message.headers.get("ce-id"), str(event["event_id"])),
        "ce-type": (message.headers.get("ce-type"), event["type"]),
        "subject": (message.subject, event["type"]),
        "payload": (message.data, event["payload"]),
    }
    if differ := [part for part, (here, there) in parts.items() if here != there]:
        yield Difference("message-differs", ids, f"its {' and '.join(differ)} differ from the row")


def _ids(message: Stored) -> dict[str, str]:
    return {"sequence": str(message.sequence), "event": message.headers.get("ce-id", "")}


def mistold(case: Case) -> Iterator[Difference]:
    """Versions of which the event says something else than the row of the order."""
    if case.order is None:
        return
    for event in case.events:
        ids = {"order": str(case.id), "version": str(event["version"])}
        try:
            order, version, recipient = said(event["type"], event["payload"])
        except DecodeError as error:
            yield Difference("event-payload", ids, f"its payload cannot be read: {error}")
            continue
        wrong = [name for name, (there, here) in _facts(case.order, order).items() if there != here]
        if event["type"] and (version, recipient) != (event["version"], case.order["email"]):
            wrong.append("version or recipient")
        if event["version"] == case.order["version"] and order.state_reason != case.order["state_reason"]:
            wrong.append("state_reason")
        if wrong:
            yield Difference("event-payload", ids, f"its {', '.join(wrong)} differ from those of the order")


def _facts(row: Row, order: order_pb2.Order) -> dict[str, tuple[object, object]]:
    """What stays as it was when the order was placed: in the row, and in an event."""
    lines = [
        (f"products/{line['product']}", line["display_name"], line["quantity"], line["units"], line["nanos"])
        for line in orjson.loads(row["lines"])
    ]
    return {
        "name": (f"orders/{row['order_id']}", order.name),
        "customer": (f"customers/{row['customer']}", order.customer),
        "total": (
            (row["total_currency"], row["total_units"], row["total_nanos"]),
            (order.total.currency_code, order.total.units, order.total.nanos),
        ),
        "lines": (
            lines,
            [
                (line.product, line.display_name, line.quantity, line.unit_price.units, line.unit_price.nanos)
                for line in order.lines
            ],
        ),
    }
