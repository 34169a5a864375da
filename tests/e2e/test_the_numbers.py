"""The numbers of a shop that runs: on one page for Prometheus, with all that rules and dashboard ask for."""

import grpc
import httpx
from shop.order.v1 import order_pb2_grpc

from tests.support import deployed
from tests.support.promtool import PROMTOOL, told_by_promtool
from tests.support.refused import outcome
from tests.support.scraped import Scraped
from tests.support.shop import Shop
from tests.support.shop_fixtures import Bearer, Stocked, order_of
from tests.support.waiting import eventually

OUT_OF_STOCK = {"shop_reason": "OUT_OF_STOCK"}
PLACE_ORDER = {"rpc_method": "shop.order.v1.OrderService/PlaceOrder"}


async def test_all_that_is_asked_for_comes_out_of_a_running_shop(
    pages: str, edge: grpc.aio.Channel, http: httpx.AsyncClient, bearer: Bearer, stocked: Stocked
) -> None:
    product, orders = await stocked(1), order_pb2_grpc.OrderServiceStub(edge)
    await orders.PlaceOrder(order_of(product), metadata=bearer("ann"), timeout=60)
    none_left = await outcome(orders.PlaceOrder(order_of(product), metadata=bearer("ann"), timeout=60))
    assert none_left.reason == "OUT_OF_STOCK"

    async def complete() -> str:
        text = (await http.get(f"{pages}/metrics")).text
        names = {sample.name for sample in Scraped(text).samples}
        assert deployed.metrics() <= names, deployed.metrics() - names
        assert {"product", "order", "inventory", "notification", "controlplane", "telemetry"} == {
            sample.labels["job"] for sample in Scraped(text).of("target_info")
        }
        assert Scraped(text).sum("rpc_server_call_duration_seconds_count", **PLACE_ORDER, **OUT_OF_STOCK) >= 1
        return text

    text = await eventually(complete, "numbers of all processes")
    seen = Scraped(text)
    assert seen.sum("rpc_server_call_duration_seconds_count", **PLACE_ORDER, rpc_response_status_code="OK") >= 1
    assert seen.sum("shop_inventory_reservations_total", step="reserve", **OUT_OF_STOCK) >= 1
    if PROMTOOL:
        assert told_by_promtool("check", "metrics", stdin=text) == ""


async def test_instances_are_told_apart(shop: Shop) -> None:
    async def told() -> Scraped:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            seen = Scraped((await client.get(f"{shop.pages}/metrics")).text)
        assert seen.value("shopmesh_envoy_instances", service="inventory", state="well") == 2
        return seen

    seen = await eventually(told, "two instances of inventory")
    by_instance = seen.of("shopmesh_config_revision", document="config/inventory")
    assert {sample.labels["instance"] for sample in by_instance} == {"inventory", "inventory-2"}
