"""What Order has ever said stays readable for ever; tests/component/order/test_golden_events.py makes the records."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.chassis.bus.pulling import Message
from services.money import Money
from services.notification.domain import Kind, Line, News
from services.notification.events import OrderEvents
from services.notification.letters import letter
from services.notification.use_cases import Hearing
from tests.support.notification import MemoryNotifications

RECORDS = {
    f"{path.stem} of {path.parent.name}": json.loads(path.read_text())
    for path in Path(__file__).parent.glob("golden/*/*.json")
}
KEPT, DROPPED = UUID("8a885d72-230c-5dcb-9058-f88a1980c9df"), UUID("37e29f2a-39a6-5171-8b3a-f3214880d6fc")
SAYS = {
    "shop.order.v1.OrderPlaced": (Kind.ORDER_PLACED, KEPT, 1, "", 12),
    "shop.order.v1.OrderRejected": (Kind.ORDER_REJECTED, KEPT, 2, "OUT_OF_STOCK", 13),
    "shop.order.v1.OrderCancelled": (Kind.ORDER_CANCELLED, DROPPED, 2, "", 13),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
async def test_a_record_is_read_as_on_its_day(record: dict[str, Any]) -> None:
    kept, headers = MemoryNotifications(), record["headers"]
    message = Message(record["subject"], headers, base64.b64decode(record["payload"]), headers["traceparent"])

    await OrderEvents(Hearing(kept, letter, lambda: None)).handle([message])

    assert not kept.dead
    [row] = kept.rows.values()
    kind, order_id, version, reason, hour = SAYS[record["subject"]]
    assert row.news == News(
        event=row.news.event,
        kind=kind,
        order_id=order_id,
        version=version,
        customer="ann",
        recipient="ann@example.com",
        placed_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        lines=(
            Line("Mug", 1, Money.of("EUR", 12, 500_000_000)),
            Line("Teapot", 1, Money.of("EUR", 39)),
        ),
        total=Money.of("EUR", 51, 500_000_000),
        reason=reason,
        since=datetime(2026, 3, 1, hour, tzinfo=UTC),
    )
    assert (row.news.event.type, row.news.event.id) == (headers["ce-type"], headers["ce-id"])


def test_every_type_of_event_is_on_record() -> None:
    assert {record["subject"] for record in RECORDS.values()} == set(SAYS)
