"""A shop some of whose processes are told to end, or just end."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import grpc
import httpx
import psutil
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.notification.v1 import notification_pb2, notification_pb2_grpc
from shop.order.v1 import order_pb2, order_pb2_grpc
from shop.product.v1 import product_pb2, product_pb2_grpc

from services.cli.local.stack import remove
from services.cli.settings import SERVICES
from tests.support.shop import Shop, started_shop, stop
from tests.support.shop_fixtures import Bearer, Stocked, audit, order_of
from tests.support.waiting import DEADLINE_S, eventually

PIECES = 100_000

AT_ONCE = 3
PAUSE_S = 0.2
"""Before a caller asks again: all of them stay below the limit of calls of a user."""

type Do = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Calls:
    """How often each was answered, and how often it failed in which way."""

    done: Counter[str] = field(default_factory=Counter[str])
    failed: Counter[str] = field(default_factory=Counter[str])


@asynccontextmanager
async def calling(**what: Do) -> AsyncIterator[Calls]:
    """Each of these by several callers, again and again, while the body runs. Nobody tries again what failed."""
    over, calls = asyncio.Event(), Calls()

    async def caller(name: str, do: Do) -> None:
        while not over.is_set():
            try:
                await do()
                calls.done[name] += 1
            except grpc.aio.AioRpcError as error:
                calls.failed[f"{name}: {error.code().name} {error.details()}"] += 1
            await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as callers:
        for name, do in what.items():
            for _ in range(AT_ONCE):
                callers.create_task(caller(name, do))
        try:
            yield calls
        finally:
            over.set()


async def test_no_call_fails_when_one_of_two_instances_is_told_to_stop(
    shop: Shop, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    product = await stocked(1000)
    warehouse, orders = inventory_pb2_grpc.InventoryServiceStub(edge), order_pb2_grpc.OrderServiceStub(edge)
    before = shop.parts()["inventory-2"]["pid"]

    def look() -> Awaitable[object]:
        return warehouse.GetStock(inventory_pb2.GetStockRequest(name=f"{product}/stock"), timeout=60)

    def buy() -> Awaitable[object]:
        return orders.PlaceOrder(order_of(product), metadata=bearer("ann"), timeout=60)

    async with calling(look=look, buy=buy) as calls:
        os.kill(before, signal.SIGTERM)

        async def back() -> bool:
            part = (await asyncio.to_thread(shop.parts))["inventory-2"]
            another = part["pid"] != before and part["state"] == "ready"
            return bool(another and min(calls.done["look"], calls.done["buy"]) > 20)

        await eventually(back, "another inventory-2 has taken its place, and calls went on meanwhile")

    assert not calls.failed


async def test_every_service_is_restarted_while_customers_buy_and_each_order_is_there_once_and_mailed_once(
    shop: Shop, edge: grpc.aio.Channel, http: httpx.AsyncClient, bearer: Bearer, stocked: Stocked
) -> None:
    product = await stocked(PIECES)
    catalogue, orders = product_pb2_grpc.ProductServiceStub(edge), order_pb2_grpc.OrderServiceStub(edge)
    warehouse = inventory_pb2_grpc.InventoryServiceStub(edge)
    notifications = notification_pb2_grpc.NotificationServiceStub(edge)
    customers = cycle(("ann", "bob"))
    placed = dict[str, str]()

    async def look() -> None:
        await catalogue.GetProduct(product_pb2.GetProductRequest(name=product), timeout=60)
        await warehouse.GetStock(inventory_pb2.GetStockRequest(name=f"{product}/stock"), timeout=60)

    async def buy() -> None:
        request, token = order_of(product), bearer(next(customers))
        order = (await orders.PlaceOrder(request, metadata=token, timeout=60)).order
        placed[request.request_id] = order.name.removeprefix("orders/")
        await orders.GetOrder(order_pb2.GetOrderRequest(name=order.name), metadata=token, timeout=60)

    def read() -> Awaitable[object]:
        request = notification_pb2.ListNotificationsRequest(page_size=1)
        return notifications.ListNotifications(request, metadata=bearer("ann"), timeout=60)

    before = shop.parts()
    try:
        for service in SERVICES:
            await asyncio.to_thread(shop.command, "scale", service, "2")
        old = shop.parts()
        async with calling(look=look, buy=buy, read=read) as calls:
            for service in SERVICES:
                await asyncio.to_thread(shop.command, "restart", service, deadline_s=2 * DEADLINE_S)
        new = shop.parts()
    finally:
        for service in SERVICES:
            await asyncio.to_thread(shop.command, "scale", service, str(_instances(before, service)))

    assert not calls.failed
    assert min(calls.done[name] for name in ("look", "buy", "read")) > 20
    restarted = {name for name in old if old[name]["pid"] != new[name]["pid"]}
    assert restarted == {name for service in SERVICES for name in (service, f"{service}-2")}

    query = "select request_id, order_id from audit_orders where request_id = any($1)"
    rows = await audit(shop, "order", query, list(placed))
    assert sorted((row["request_id"], str(row["order_id"])) for row in rows) == sorted(placed.items())

    async def all_have_left() -> bool:
        query = "select on_hand, reserved from audit_stock where product = $1"
        [row] = await audit(shop, "inventory", query, product.removeprefix("products/"))
        return tuple(row) == (PIECES - len(placed), 0)

    async def all_are_sent() -> bool:
        query = "select state, count(*) from audit_notifications where order_id = any($1::uuid[]) group by state"
        rows = await audit(shop, "notification", query, list(placed.values()))
        return [tuple(row) for row in rows] == [("SENT", len(placed))]

    await eventually(all_have_left, "one piece for each order has left the warehouse")
    await eventually(all_are_sent, "each customer has been told")
    answer = await http.get(f"{shop.mail}/api/v1/messages?limit={PIECES}")
    mailed = Counter(_order_of_mail(mail["MessageID"]) for mail in answer.json()["messages"])
    assert {order: mailed[order] for order in placed.values() if mailed[order] != 1} == {}


def _instances(parts: Mapping[str, object], service: str) -> int:
    return sum(name.rstrip("-0123456789") == service for name in parts)


def _order_of_mail(message_id: str) -> str:
    return message_id.partition("@")[0].partition(".")[2]


async def test_after_a_kill_of_the_supervisor_nothing_is_left_and_nothing_is_lost(tmp_path: Path) -> None:
    with started_shop(tmp_path) as shop:
        shop.command("demo")
        before = await _orders_of_ann(shop)
        processes = [
            process
            for part in shop.parts().values()
            for top in [psutil.Process(part["pid"])]
            for process in [top, *top.children(recursive=True)]
        ]
        shop.supervisor.kill()
        shop.supervisor.wait()

        _, left = await asyncio.to_thread(psutil.wait_procs, processes, timeout=DEADLINE_S)
        assert left == []

    with started_shop(tmp_path) as again:
        after = await _orders_of_ann(again)
        took_s = stop(again)
    remove(tmp_path)

    assert len(before) == 1
    assert after == before
    assert took_s < 10


async def _orders_of_ann(shop: Shop) -> list[str]:
    async with grpc.aio.insecure_channel(shop.edge) as edge:
        answer = await order_pb2_grpc.OrderServiceStub(edge).ListOrders(
            order_pb2.ListOrdersRequest(),
            metadata=(("authorization", f"Bearer {shop.token('ann')}"),),
            timeout=60,
        )
    return [order.name for order in answer.orders]
