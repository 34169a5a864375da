"""What must be true of a shop when its faults are over: invariants 1 and 2 of its design, in figures."""

from collections import Counter
from datetime import timedelta

import nats
import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig

from services.cli.audit import looking as audit
from services.cli.audit.page import page
from services.order.events import STREAM
from tests.support.bare_shop import BareShop
from tests.support.waiting import eventually

WITHIN_S = 30.0

_TELLING = ("order", "inventory", "notification")
_ORDERS = "select order_id, customer, request_id, state, settled_time from audit_orders"
_EVENTS = "select order_id, version, event_id, sent_time from audit_order_events where type is not null"
_RESERVATIONS = "select reservation_id, state from audit_reservations"
# Each product whose counters are not what its ledger says.
_LEDGER = """
select product, on_hand, reserved, booked.* from audit_stock full join (
  select product, sum(on_hand_delta) as on_hand_booked, sum(reserved_delta) as reserved_booked
  from audit_ledger group by product
) booked using (product)
where (on_hand, reserved) is distinct from (on_hand_booked, reserved_booked)"""
_NOTIFICATIONS = "select order_id, kind, state, possible_duplicates from audit_notifications"
_INVENTORY_OF = {"PLACED": {"CONFIRMED"}, "CANCELLED": {"RELEASED"}, "REJECTED": {"RELEASED"}}
_DONE = {"SENT", "SUPERSEDED"}


async def becomes_true(shop: BareShop) -> Counter[str]:
    """Returns how often each mail was sent. Raises AssertionError, naming what differs, if it is not so in 30 s.

    To be asked when all requests were answered. `shopmesh audit` has to agree.
    """

    async def look() -> bool:
        looks = (_in_orders(shop), _in_stock(shop), _told(shop), _in_the_stream(shop))
        differences = [difference for found in looks for difference in await found]
        assert not differences, f"{len(differences)} differences: " + "\n".join(differences[:20])
        return True

    await eventually(look, "everything is as it must be", WITHIN_S)
    report = await audit.look(
        {service: f"postgresql://audit@127.0.0.1:{shop.postgres.port}/{service}" for service in _TELLING},
        shop.nats.url,
        deep=True,
        late=timedelta(0),
    )
    assert report.exit_code == 0, page(report)
    return shop.sink.accepted


async def _in_orders(shop: BareShop) -> list[str]:
    acknowledged = shop.acknowledged
    rows = await shop.rows("order", _ORDERS)
    kept = {(row["customer"], row["request_id"]): row["order_id"] for row in rows}
    return [
        *(f"{request} was answered with order {id}, there is {kept.get(request)}"
          for request, id in acknowledged.items() if kept.get(request) != id),
        *(f"nobody was told of order {id} of {request}" for request, id in kept.items() if request not in acknowledged),
        *(f"order {row['order_id']} is not settled" for row in rows if row["settled_time"] is None),
        *([] if len(kept) == len(rows) else [f"{len(rows)} orders for {len(kept)} requests"]),
    ]  # fmt: skip


async def _in_stock(shop: BareShop) -> list[str]:
    orders = {row["order_id"]: row["state"] for row in await shop.rows("order", _ORDERS)}
    held = {row["reservation_id"]: row["state"] for row in await shop.rows("inventory", _RESERVATIONS)}
    return [
        *(f"order {id} is {state}, its reservation {held.get(id)}"
          for id, state in orders.items() if held.get(id) not in _INVENTORY_OF.get(state, ())),
        *(f"reservation {id} of no order is {state}"
          for id, state in held.items() if id not in orders and state not in {"EXPIRED", "RELEASED"}),
        *(f"the ledger differs: {dict(row)}" for row in await shop.rows("inventory", _LEDGER)),
    ]  # fmt: skip


async def _told(shop: BareShop) -> list[str]:
    events = await shop.rows("order", _EVENTS)
    due = Counter(row["order_id"] for row in events)
    rows = await shop.rows("notification", _NOTIFICATIONS)
    sent = shop.sink.accepted  # later than the rows: what they say was sent has come
    mails = {f"<{row['kind'].removeprefix('ORDER_').lower()}.{row['order_id']}@shopmesh.dev>": row for row in rows}
    kept = Counter(row["order_id"] for row in rows)
    return [
        *(f"version {row['version']} of {row['order_id']} is not sent" for row in events if row["sent_time"] is None),
        *(f"of order {id} {kept[id]} notifications for {due[id]} events" for id in due | kept if kept[id] != due[id]),
        *(f"{mail} is {row['state']}" for mail, row in mails.items() if row["state"] not in _DONE),
        *(f"{mail} is SENT and never came" for mail, row in mails.items() if row["state"] == "SENT" and not sent[mail]),
        *(f"{mail} came {copies} times, {mails[mail]['possible_duplicates']} duplicates are known of"
          for mail, copies in sent.items() if mail in mails and copies > 1 + mails[mail]["possible_duplicates"]),
        *(f"{mail} came, and nobody knows of it" for mail in sent if mail not in mails),
    ]  # fmt: skip


async def _in_the_stream(shop: BareShop) -> list[str]:
    wanted = Counter(str(row["event_id"]) for row in await shop.rows("order", _EVENTS))
    there = await ce_ids(shop)
    return [
        f"event {id} is {there[id]} times in the stream, {wanted[id]} times in the table"
        for id in wanted | there
        if there[id] != wanted[id]
    ]


async def ce_ids(shop: BareShop) -> Counter[str]:
    """Of all messages of the stream. Raises AssertionError while NATS does not answer."""
    try:
        client = await nats.connect(shop.nats.url, allow_reconnect=False)
    except (OSError, nats.errors.Error) as error:
        raise AssertionError(f"NATS does not answer: {error}") from error
    found = Counter[str]()
    try:
        stream = client.jetstream(timeout=5)
        messages = (await stream.stream_info(STREAM)).state.messages
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, headers_only=True)
        reader = await stream.pull_subscribe("", stream=STREAM, config=config)
        while found.total() < messages:
            found.update((message.headers or {})["ce-id"] for message in await reader.fetch(256, timeout=5))
    except (OSError, TimeoutError, nats.errors.Error) as error:
        raise AssertionError(f"the stream cannot be read: {error}") from error
    finally:
        await client.close()
    return found
