"""A shop some of whose processes are told to end, or just end."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import psutil
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.order.v1 import order_pb2, order_pb2_grpc

from services.cli.stack import remove
from tests.support.shop import Shop, started_shop, stop
from tests.support.shop_fixtures import Bearer, Stocked, order_of
from tests.support.waiting import DEADLINE_S, eventually


async def test_no_call_fails_when_one_of_two_instances_is_told_to_stop(
    shop: Shop, edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked
) -> None:
    product = await stocked(1000)
    warehouse, orders = inventory_pb2_grpc.InventoryServiceStub(edge), order_pb2_grpc.OrderServiceStub(edge)
    before = shop.parts()["inventory-2"]["pid"]
    over, failed, done = asyncio.Event(), Counter[str](), Counter[str]()

    async def load(name: str, call: Callable[[], Awaitable[object]]) -> None:
        while not over.is_set():
            try:
                await call()
                done[name] += 1
            except grpc.aio.AioRpcError as error:
                failed[f"{name}: {error.code().name} {error.details()}"] += 1

    def look() -> Awaitable[object]:
        return warehouse.GetStock(inventory_pb2.GetStockRequest(name=f"{product}/stock"), timeout=60)

    def buy() -> Awaitable[object]:
        return orders.PlaceOrder(order_of(product), metadata=bearer("ann"), timeout=60)

    async with asyncio.TaskGroup() as buyers:
        for _ in range(4):
            buyers.create_task(load("GetStock", look))
            buyers.create_task(load("PlaceOrder", buy))
        os.kill(before, signal.SIGTERM)

        async def back() -> bool:
            part = (await asyncio.to_thread(shop.parts))["inventory-2"]
            return bool(part["pid"] != before and part["state"] == "ready")

        try:
            await eventually(back, "another inventory-2 has taken its place")
        finally:
            over.set()

    assert not failed
    assert done["GetStock"] > 20
    assert done["PlaceOrder"] > 20


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
