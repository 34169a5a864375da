"""What operators read, as the role that may read nothing else."""

import asyncpg
import pytest

from services.chassis.database import Database
from services.order.contract import event_id
from services.order.domain import OrderPlaced
from services.order.store import SqlOrders
from tests.support.postgres import Postgres
from tests.unit.order.fakes import MUG_AND_TEAPOT, NOON, order


async def test_auditors_see_orders_and_their_events_and_cannot_touch_them(
    postgres: Postgres, database: Database
) -> None:
    placed = order(MUG_AND_TEAPOT)
    await SqlOrders(database, committed=lambda: None).add(placed, OrderPlaced(placed), "r1")
    auditor = await asyncpg.connect(postgres.url(await database.fetchval("select current_database()"), "audit"))
    try:
        [seen] = await auditor.fetch("select * from audit_orders")
        [event] = await auditor.fetch("select * from audit_order_events")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await auditor.execute("select * from orders")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await auditor.execute("delete from audit_orders")
    finally:
        await auditor.close()

    expected = {
        "order_id": placed.id,
        "customer": "ann",
        "email": "ann@example.com",
        "state": "PLACED",
        "state_reason": "",
        "version": 1,
        "total_currency": "EUR",
        "total_units": 51,
        "total_nanos": 500_000_000,
        "request_id": "r1",
        "create_time": NOON,
        "update_time": NOON,
        "settled_time": None,
        "attempts": 0,
        "last_error": None,
    }
    assert {column: seen[column] for column in expected} == expected
    assert (event["order_id"], event["version"], event["type"]) == (placed.id, 1, "shop.order.v1.OrderPlaced")
    assert event["event_id"] == event_id(placed)
    assert (event["claimed_until"], event["sent_time"], event["attempts"]) == (None, None, 0)
