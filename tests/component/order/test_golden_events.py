"""Events as they went into the stream once, kept for ever in tests/unit/notification/golden, a folder for each day.

Readers of tomorrow meet events of today: Notification's test reads each record ever made, and here what Order says now
must say what each record says, and may say more. When an event has got something new, add a record, never change one:

    GOLDEN=2027-01-31 .venv/bin/python -m pytest tests/component/order/test_golden_events.py
"""

import base64
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from shop.order.v1 import events_pb2

from services.chassis.bus.pulling import Message
from services.chassis.database import Database
from services.order.contract import event_id
from services.order.domain import OrderCancelled, OrderPlaced, OrderRejected
from services.order.store import SqlOrders
from tests.component.order.test_telling_everybody import told
from tests.support.nats import NatsServer, running_nats
from tests.support.waiting import eventually
from tests.unit.order.fakes import MUG_AND_TEAPOT, NOON, ONE_O_CLOCK, order

GOLDEN = Path(__file__).parents[2] / "unit/notification/golden"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest.fixture(scope="module")
def nats() -> Iterator[NatsServer]:
    with running_nats() as server:
        yield server


@pytest.fixture
async def said(database: Database, nats: NatsServer) -> dict[str, Message]:
    """One event of each type, as a reader of the stream gets it."""
    orders = SqlOrders(database, committed=lambda: None)
    kept, dropped = [order(MUG_AND_TEAPOT, request_id=request_id) for request_id in ("r1", "r2")]
    for one in (kept, dropped):
        await orders.add(one, OrderPlaced(one), str(one.id))
    await orders.change(OrderRejected(kept.reject("OUT_OF_STOCK", ONE_O_CLOCK)))
    await orders.change(OrderCancelled(dropped.cancel(ONE_O_CLOCK)))
    await database.execute(
        "update order_events set create_time = $1::timestamptz + version * interval '1 s', traceparent = $2",
        NOON,
        TRACE,
    )
    async with told(database, nats) as read:

        async def all_of_them() -> bool:
            return len(read) >= 4

        await eventually(all_of_them, "all events are read")
    return {message.subject: message for message in read if message.headers["ce-id"] != str(event_id(dropped))}


def record_of(message: Message) -> dict[str, Any]:
    return {
        "subject": message.subject,
        "headers": dict(sorted(message.headers.items())),
        "payload": base64.b64encode(message.data).decode(),
    }


def says(type: str, payload: bytes) -> dict[str, Any]:
    event = getattr(events_pb2, type.rpartition(".")[2]).FromString(payload)
    return MessageToDict(event, preserving_proto_field_name=True)


def require_within(record: object, today: object, path: str) -> None:
    """All that the record says is said today, wherever it stands."""
    match record, today:
        case dict(), dict():
            for name in record:
                assert name in today, f"{path}.{name} is not said any more"
                require_within(record[name], today[name], f"{path}.{name}")
        case list(), list():
            for at, (before, now) in enumerate(zip(record, today, strict=True)):
                require_within(before, now, f"{path}[{at}]")
        case _:
            assert record == today, path


def write(day: str, said: Mapping[str, Message]) -> None:
    for type, message in said.items():
        path = GOLDEN / day / f"{type.rpartition('.')[2]}.json"
        assert not path.exists(), "a record is never changed"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record_of(message), indent=2) + "\n")


def records() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*/*.json"))]


async def test_what_was_said_once_is_said_today(said: dict[str, Message]) -> None:
    if day := os.environ.get("GOLDEN"):
        write(day, said)

    assert {record["subject"] for record in records()} == set(said)
    for record in records():
        type, payload = record["subject"], base64.b64decode(record["payload"])
        require_within(record["headers"], said[type].headers, f"{type}: headers")
        require_within(says(type, payload), says(type, said[type].data), type)
