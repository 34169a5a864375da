"""What waits in the tables, as numbers, and what it costs to ask: as much as waits, however much there was before."""

from uuid import uuid4

from services.chassis import metrics, prometheus
from services.chassis.bus.connection import Bus
from services.chassis.otlp_metrics import encode
from services.chassis.settings import Settings
from services.inventory import backlog as holds
from services.notification import backlog as mails
from services.order import backlog as orders
from tests.support.nats import NatsServer
from tests.support.plans import plan
from tests.support.postgres import Postgres
from tests.support.scraped import Scraped
from tests.support.waiting import eventually

ROWS = 5000

ORDERS = """
insert into orders (id, customer, request_id, email, state, version, lines, total_currency, total_units, total_nanos,
  create_time, update_time, settled_time)
select gen_random_uuid(), 'ann', n, 'ann@example.com', case when n <= 2 then 'PENDING_STOCK' else 'PLACED' end, 1, '[]',
  'EUR', 5, 0, now(), now() - n * interval '10 seconds', case when n > 3 then now() end
from generate_series(1, $1::int) as n"""
EVENTS = """
insert into order_events (order_id, version, type, event_id, create_time, unsent_time, sent_time)
select id, 1, 'shop.order.v1.OrderPlaced', id, now() - interval '2 days',
  case when request_id::int < 3 then now() - request_id::int * interval '100 seconds' end,
  case when request_id::int >= 3 then now() end
from orders"""
RESERVATIONS = """
insert into reservations (id, state, products, quantities, expire_time)
select gen_random_uuid(), case when n > 5 then 'CONFIRMED' else 'HELD' end, '{mug}', '{1}',
  now() + (n - 3.5) * interval '60 seconds'
from generate_series(1, $1::int) as n"""
NOTIFICATIONS = """
insert into notifications (id, order_id, kind, version, customer, recipient, subject, body, event_type, event_id, state,
  create_time, claimable_time)
select gen_random_uuid(), gen_random_uuid(), 'ORDER_PLACED', 1, 'ann', 'ann@example.com', 'Your order', 'Hello',
  'shop.order.v1.OrderPlaced', n, case when n = 1 then 'SENDING' when n < 5 then 'READY' else 'SENT' end,
  now() - interval '1 hour', now() - (n - 4) * interval '10 seconds'
from generate_series(1, $1::int) as n"""
DEAD_LETTERS = """
insert into dead_letters (id, event_type, event_id, reason, attempts, state)
select gen_random_uuid(), 'shop.order.v1.OrderPlaced', n, '550 no', 1, case when n <= 7 then 'OPEN' else 'DISCARDED' end
from generate_series(1, $1::int) as n"""

MOST_BLOCKS = 60
"""Of 8 KiB; all that there is are hundreds."""


def now() -> Scraped:
    settings = Settings.read("test", {"SHOPMESH_INSTANCE": "test-1"})
    return Scraped(prometheus.text([encode(metrics.declared, settings, 0, 0)], told_apart=False))


async def test_events_and_orders(postgres: Postgres) -> None:
    async with postgres.database("services.order") as database:
        await database.execute(ORDERS, ROWS)
        await database.execute(EVENTS)
        await database.execute("vacuum analyze")

        assert await orders.backlog(database).claim(64) == ()
        seen = now()
        steps = await plan(database, orders.BACKLOG)

    assert seen.value("shop_order_events_unsent") == 2
    assert 200 <= seen.value("shop_order_events_unsent_age_seconds") < 1000
    by_state = {sample.labels["state"]: sample.value for sample in seen.of("shop_order_unsettled")}
    assert by_state == {"PENDING_STOCK": 2, "PLACED": 1, "REJECTED": 0, "CANCELLED": 0}
    assert 20 <= seen.value("shop_order_unsettled_age_seconds", state="PENDING_STOCK") < 1000
    assert seen.value("shop_order_unsettled_age_seconds", state="CANCELLED") == 0
    assert steps[0].blocks < MOST_BLOCKS


async def test_holds(postgres: Postgres) -> None:
    async with postgres.database("services.inventory") as database:
        await database.execute(RESERVATIONS, ROWS)
        await database.execute("vacuum analyze")

        await holds.backlog(database).claim(64)
        seen = now()
        steps = await plan(database, holds.BACKLOG)

    assert {sample.labels["state"]: sample.value for sample in seen.of("shop_inventory_holds")} == {
        "running": 2, "overdue": 3,
    }  # fmt: skip
    assert 150 <= seen.value("shop_inventory_holds_overdue_age_seconds") < 1000
    assert steps[0].blocks < MOST_BLOCKS


async def test_mails_and_dead_letters(postgres: Postgres) -> None:
    async with postgres.database("services.notification") as database:
        await database.execute(NOTIFICATIONS, ROWS)
        await database.execute(DEAD_LETTERS, ROWS)
        await database.execute("vacuum analyze")

        await mails.backlog(database).claim(64)
        seen = now()
        steps = await plan(database, mails.BACKLOG)

    assert {sample.labels["state"]: sample.value for sample in seen.of("shop_notification_mails_waiting")} == {
        "READY": 3, "SENDING": 1,
    }  # fmt: skip
    assert 3600 <= seen.value("shop_notification_mails_waiting_age_seconds") < 4600
    assert 0 <= seen.value("shop_notification_sender_lag_seconds") < 1000
    assert seen.value("shop_notification_dead_letters") == 7
    assert steps[0].blocks < MOST_BLOCKS


async def test_of_a_consumer_that_is_gone_nothing_is_known(nats: NatsServer) -> None:
    stream = f"S{uuid4().hex}"
    bus = await Bus.connect(nats.url, "test")

    async def there() -> bool:
        return bus.connected

    await eventually(there, "the bus is connected")
    await bus.ensure_stream(stream, [f"{stream}.>"])
    await bus.publish(f"{stream}.letter", b"", {})
    await bus._bind(stream, "reader", [f"{stream}.>"])
    lag = mails.consumer_lag(bus, stream, "reader")

    await lag.claim(64)
    assert now().value("shop_notification_events_pending") == 1
    assert now().value("shop_notification_events_unacknowledged") == 0

    await bus._stream.delete_consumer(stream, "reader")
    await lag.claim(64)
    await bus.close()
    assert not [*now().of("shop_notification_events_pending"), *now().of("shop_notification_events_unacknowledged")]
