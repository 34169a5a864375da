"""The floor: the least Python that does the work. `python floor_shop.py ROLE`.

No telemetry, no auth, no validation, no deadlines: a chassis can only add to this.
"""

import asyncio
import json
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import asyncpg
import floor_pb2 as pb
import floor_pb2_grpc as rpc
import grpc
import nats
from nats.js.api import ConsumerConfig, StreamConfig

BATCH = 32
SUBJECT = "shop.order.placed"


async def pool(database):
    async def keep(_connection):
        """Skips the RESET round trip that asyncpg makes at each release."""

    return await asyncpg.create_pool(os.environ["BENCH_POSTGRES"] + database, min_size=8, max_size=8, reset=keep)


async def forever(wake, drain):
    """Calls `drain` until it finds nothing, each time someone sets `wake`, or each second."""
    while True:
        try:
            await asyncio.wait_for(wake.wait(), 1)
        except TimeoutError:
            pass
        wake.clear()
        await asyncio.sleep(0.02)
        while await drain():
            pass


def product_message(row):
    return pb.Product(
        id=row["id"],
        display_name=row["display_name"],
        price=pb.Money(currency=row["currency"], units=row["price_units"], nanos=row["price_nanos"]),
        create_time_us=int(row["create_time"].timestamp() * 1e6),
        version=row["version"],
    )


class Product(rpc.ProductServiceServicer):
    def __init__(self, db):
        self.db = db

    async def GetProduct(self, request, context):
        row = await self.db.fetchrow("select * from products where id = $1", request.id)
        if row is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, request.id)
        return product_message(row)

    async def BatchGetProducts(self, request, context):
        rows = await self.db.fetch("select * from products where id = any($1)", list(request.ids))
        if len(rows) != len(set(request.ids)):
            await context.abort(grpc.StatusCode.NOT_FOUND, "product")
        return pb.BatchGetProductsResponse(products=map(product_message, rows))


MOVE = """update stock set on_hand = on_hand + $2 * q, reserved = reserved + $3 * q
from unnest($1::text[], $4::bigint[]) as w(p, q) where product = p"""
BOOK = """insert into ledger (reservation, kind, product, on_hand_delta, reserved_delta)
select $1, $2, p, $3 * q, $4 * q from unnest($5::text[], $6::bigint[]) as w(p, q)"""


class Inventory(rpc.InventoryServiceServicer):
    def __init__(self, db):
        self.db = db

    async def ReserveStock(self, request, context):
        id = UUID(request.reservation_id)
        wanted = {line.product: line.quantity for line in request.lines}
        async with self.db.acquire() as c, c.transaction():
            new = await c.fetchval(
                "insert into reservations (id, state, lines, expire_time)"
                " values ($1, 'held', $2, $3) on conflict do nothing returning true",
                id,
                json.dumps(wanted),
                datetime.now(UTC) + timedelta(minutes=15),
            )
            if new:
                for row in await self.lock(c, wanted):
                    if row["on_hand"] - row["reserved"] < wanted[row["product"]]:
                        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, row["product"])
                await self.move(c, id, "reserve", wanted, 0, 1)
        return pb.Reservation(id=request.reservation_id, state="held")

    async def ConfirmReservation(self, request, context):
        id = UUID(request.reservation_id)
        async with self.db.acquire() as c, c.transaction():
            lines = await c.fetchval(
                "update reservations set state = 'confirmed' where id = $1 and state = 'held' returning lines",
                id,
            )
            if lines:
                wanted = json.loads(lines)
                await self.lock(c, wanted)
                await self.move(c, id, "confirm", wanted, -1, -1)
        return pb.Reservation(id=request.reservation_id, state="confirmed")

    async def lock(self, c, wanted):
        return await c.fetch(
            "select * from stock where product = any($1) order by product for update",
            list(wanted),
        )

    async def move(self, c, id, kind, wanted, on_hand, reserved):
        products, pieces = list(wanted), list(wanted.values())
        await c.execute(MOVE, products, on_hand, reserved, pieces)
        await c.execute(BOOK, id, kind, on_hand, reserved, products, pieces)


class Order(rpc.OrderServiceServicer):
    def __init__(self, db, js, product, inventory):
        self.db, self.js, self.product, self.inventory = db, js, product, inventory
        self.wake = asyncio.Event(), asyncio.Event()

    async def PlaceOrder(self, request, context):
        catalog = await self.product.BatchGetProducts(
            pb.BatchGetProductsRequest(ids=[line.product for line in request.lines])
        )
        prices = {p.id: p.price for p in catalog.products}
        now = datetime.now(UTC)
        id = uuid5(NAMESPACE_URL, f"{request.customer}/{request.request_id}")
        order = pb.Order(
            id=str(id),
            customer=request.customer,
            state="placed",
            create_time_us=int(now.timestamp() * 1e6),
        )
        nanos = 0
        for line in request.lines:
            price = prices[line.product]
            order.lines.add(product=line.product, quantity=line.quantity, unit_price=price)
            nanos += (price.units * 10**9 + price.nanos) * line.quantity
        order.total.currency = price.currency
        order.total.units, order.total.nanos = divmod(nanos, 10**9)
        await self.inventory.ReserveStock(pb.ReserveStockRequest(reservation_id=order.id, lines=order.lines))
        event = pb.OrderPlaced(event_id=str(uuid4()), order=order)
        async with self.db.acquire() as c, c.transaction():
            new = await c.fetchval(
                "insert into orders values ($1, $2, $3, 'placed', $4, $5, $6, $7, $8)"
                " on conflict do nothing returning true",
                id,
                order.customer,
                UUID(request.request_id),
                json.dumps([[x.product, x.quantity] for x in order.lines]),
                order.total.currency,
                order.total.units,
                order.total.nanos,
                now,
            )
            if new:
                await c.execute(
                    "insert into order_history (order_id, state) values ($1, 'placed')",
                    id,
                )
                await c.execute(
                    "insert into outbox (id, subject, payload) values ($1, $2, $3)",
                    UUID(event.event_id),
                    SUBJECT,
                    event.SerializeToString(),
                )
        for wake in self.wake:
            wake.set()
        return order

    async def relay(self):
        """Publishes a batch of the outbox; each row is marked after its ack."""
        async with self.db.acquire() as c, c.transaction():
            rows = await c.fetch(
                "select id, subject, payload from outbox where sent_time is null"
                " order by create_time limit $1 for update skip locked",
                BATCH,
            )
            await asyncio.gather(
                *(
                    self.js.publish(
                        r["subject"],
                        r["payload"],
                        headers={"Nats-Msg-Id": str(r["id"])},
                    )
                    for r in rows
                )
            )
            if rows:
                await c.execute(
                    "update outbox set sent_time = now() where id = any($1)",
                    [r["id"] for r in rows],
                )
        return rows

    async def settle(self):
        """Confirms the reservations of a batch of orders."""
        async with self.db.acquire() as c, c.transaction():
            rows = await c.fetch(
                "select id from orders where state = 'placed' order by create_time limit $1 for update skip locked",
                BATCH,
            )
            ids = [r["id"] for r in rows]
            await asyncio.gather(
                *(self.inventory.ConfirmReservation(pb.ConfirmReservationRequest(reservation_id=str(id))) for id in ids)
            )
            if ids:
                await c.execute("update orders set state = 'confirmed' where id = any($1)", ids)
                await c.execute(
                    "insert into order_history (order_id, state) select unnest($1::uuid[]), 'confirmed'",
                    ids,
                )
        return ids


async def jetstream():
    client = await nats.connect(os.environ["BENCH_NATS"])
    js = client.jetstream()
    await js.add_stream(StreamConfig(name="ORDERS", subjects=["shop.order.>"]))
    return js


async def notify():
    db, js = await pool("notification"), await jetstream()
    config = ConsumerConfig(durable_name="notification", max_ack_pending=1000)
    messages = await js.pull_subscribe(SUBJECT, "notification", config=config)

    async def handle(message):
        event = pb.OrderPlaced.FromString(message.data)
        await db.execute(
            "insert into notifications (id, order_id, customer, body) values ($1, $2, $3, $4) on conflict do nothing",
            UUID(event.event_id),
            UUID(event.order.id),
            event.order.customer,
            f"Thank you for your order {event.order.id}.",
        )
        await message.ack()

    while True:
        try:
            batch = await messages.fetch(BATCH, timeout=5)
        except TimeoutError:
            continue
        await asyncio.gather(*map(handle, batch))


async def serve(role):
    server = grpc.aio.server()
    tasks = []
    match role:
        case "product":
            rpc.add_ProductServiceServicer_to_server(Product(await pool("product")), server)
        case "inventory":
            rpc.add_InventoryServiceServicer_to_server(Inventory(await pool("inventory")), server)
        case "order":
            channel = grpc.aio.insecure_channel
            order = Order(
                await pool("orders"),
                await jetstream(),
                rpc.ProductServiceStub(channel(os.environ["BENCH_PRODUCT"])),
                rpc.InventoryServiceStub(channel(os.environ["BENCH_INVENTORY"])),
            )
            rpc.add_OrderServiceServicer_to_server(order, server)
            for wake, drain in zip(order.wake, (order.relay, order.settle), strict=True):
                tasks.append(asyncio.create_task(forever(wake, drain)))
        case "notification":
            tasks.append(asyncio.create_task(notify()))
    server.add_insecure_port(os.environ["BENCH_LISTEN"])
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    waiting = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([waiting, *tasks], return_when="FIRST_COMPLETED")
    for task in done:
        task.result()  # a broken loop ends the process, and with it the run
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
