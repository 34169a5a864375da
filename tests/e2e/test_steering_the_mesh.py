"""What operators do while calls go on: more instances, fewer, another version, one after the other."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from mesh.v1 import policy_pb2
from shop.product.v1 import product_pb2, product_pb2_grpc

from tests.support.shop import Shop, put
from tests.support.waiting import eventually

CANARY = "product@2.0-test"


async def does(shop: Shop, *words: str, check: bool = True) -> str:
    return await asyncio.to_thread(shop.command, *words, check=check)


async def instances(shop: Shop, service: str) -> dict[str, dict[str, Any]]:
    """The rows of `mesh --json`, by name."""
    (found,) = [each for each in json.loads(await does(shop, "mesh", "--json")) if each["service"] == service]
    return {each["instance"]: each for each in found["instances"]}


@asynccontextmanager
async def calls(edge: grpc.aio.Channel, *metadata: tuple[str, str]) -> AsyncGenerator[list[str]]:
    """Calls product all the time; gives what failed."""
    failed, counted, over = list[str](), 0, asyncio.Event()
    catalogue = product_pb2_grpc.ProductServiceStub(edge)

    async def call() -> None:
        nonlocal counted
        while not over.is_set():
            try:
                await catalogue.ListProducts(
                    product_pb2.ListProductsRequest(page_size=1), metadata=metadata, timeout=30
                )
            except grpc.aio.AioRpcError as error:
                failed.append(f"{error.code().name} {error.details()}")
            counted += 1
            await asyncio.sleep(0.02)

    callers = [asyncio.create_task(call()) for _ in range(2)]
    try:
        yield failed
    finally:
        over.set()
        await asyncio.gather(*callers)
    assert counted > 20


async def test_instances_come_and_go_and_are_restarted_without_a_failed_call(
    shop: Shop, edge: grpc.aio.Channel
) -> None:
    before = shop.parts()
    async with calls(edge) as failed:
        try:
            assert "product-2 ready at" in await does(shop, "scale", "product", "2")
            await does(shop, "scale", CANARY, "1")

            async def all_are_called() -> bool:
                found = await instances(shop, "product")
                called = {name for name, each in found.items() if each["calls_per_s"] > 0}
                return called == {"product", "product-2", CANARY}

            await eventually(all_are_called, "each instance gets calls")
            assert (await instances(shop, "product"))[CANARY]["version"] == "2.0-test"

            await does(shop, "drain", "product-2")
            assert shop.parts()["product-2"]["state"] == "drained"
            assert (await instances(shop, "product"))["product-2"]["state"] == "drained"
            await does(shop, "scale", CANARY, "0")
            await does(shop, "scale", "product", "1")

            told = await does(shop, "restart", "product")
            assert "product-2 stands in" in told
        finally:
            await does(shop, "scale", "product", "1")
            await does(shop, "scale", CANARY, "0")
    assert failed == []
    after = shop.parts()
    assert after.keys() == before.keys()
    assert [name for name in before if before[name]["pid"] != after[name]["pid"]] == ["product"]


async def test_envoy_is_replaced_without_a_failed_call(shop: Shop, edge: grpc.aio.Channel) -> None:
    before = shop.parts()
    async with calls(edge) as failed, grpc.aio.insecure_channel(shop.edge) as other, calls(other) as others_failed:
        assert "envoy-2 stands in" in await does(shop, "restart", "envoy")
    after = shop.parts()
    assert failed + others_failed == []
    assert [name for name in before if before[name]["pid"] != after[name]["pid"]] == ["envoy"]
    assert after.keys() == before.keys()


async def called(shop: Shop) -> set[str]:
    """Instances of product that got calls in the last second."""
    return {name for name, each in (await instances(shop, "product")).items() if each["calls_per_s"] > 0}


async def test_a_canary_gets_who_asks_for_it_then_a_share_and_then_nothing(shop: Shop, edge: grpc.aio.Channel) -> None:
    async def are_called(*names: str) -> None:
        async def looked() -> bool:
            return await called(shop) == set(names)

        await eventually(looked, f"calls to {', '.join(names)} alone")

    try:
        assert "no instance of 2.0-test runs" in await does(
            shop, "canary", "product", "2.0-test", "--header", "x-canary=yes"
        )
        await does(shop, "scale", CANARY, "1")
        async with calls(edge) as failed:
            await are_called("product")
        async with calls(edge, ("x-canary", "yes")) as failed_with_header:
            await are_called(CANARY)
        async with calls(edge) as failed_by_share:
            await does(shop, "canary", "product", "2.0-test", "50%")
            await are_called("product", CANARY)
            assert f"{CANARY} 50 %" in await does(shop, "mesh", "explain", "edge", "product")
            await does(shop, "canary", "product", "--off")
            await are_called("product")
        assert failed + failed_with_header + failed_by_share == []
    finally:
        await does(shop, "scale", CANARY, "0")
        await does(shop, "canary", "product", "--off")
    assert "no document" in await does(shop, "policy", "get", "product")


EVERYTHING = {
    "retries": {"edge": 0, "mesh": 4, "per_try_timeout": "0.7s", "budget_percent": 0},
    "circuit_breaker": {"max_requests": 111, "max_pending_requests": 112, "max_streams": 113},
    "ejection": {
        "consecutive_failures": 7, "interval": "2s", "base_ejection_time": "3s", "max_ejection_time": "60s"
    },
    "health_check": {"interval": "1s", "timeout": "0.25s", "unhealthy_threshold": 3, "healthy_threshold": 2},
    "rate_limit": {"user": {"calls": 0}, "address": {"calls": 70, "per": "2s", "burst": 90}},
    "load_balancing": "LOAD_BALANCING_ROUND_ROBIN",
    "rpcs": {
        "PlaceOrder": {"timeout": "3s", "per_try_timeout": "1.5s", "edge": 2, "mesh": 0},
        "GetOrder": {"timeout": "600s"},
    },
    "canary": {
        "weights": [{"version": "0.1.0", "weight": 3}, {"version": "2", "weight": 1}, {"version": "3", "weight": 0}],
        "matches": [{"version": "3", "header": {"name": "x-canary", "value": "yes"}}],
    },
    "faults": [
        {"rpcs": ["GetOrder"], "header": {"name": "x-fault", "value": "1"}, "percent": 12.5, "delay": "0.25s",
         "abort": "UNAVAILABLE"},
        {"percent": 0, "delay": "1s"},
    ],
}  # fmt: skip
"""A policy that says something of every field."""


async def test_whatever_a_policy_says_the_command_returns_when_envoy_does_it(shop: Shop) -> None:
    assert EVERYTHING.keys() == {field.name for field in policy_pb2.Policy.DESCRIPTOR.fields}
    try:
        words = [
            f"{field}={value if isinstance(value, str) else json.dumps(value)}" for field, value in EVERYTHING.items()
        ]
        assert "in effect in Envoy after" in await does(shop, "policy", "set", "order", *words)

        told = await does(shop, "mesh", "explain", "edge", "order")
        assert "calls under way, at most           111" in told
        assert "asked for" not in told
        assert "order@0.1.0 75 %, order@2 25 %, order@3 0 %" in told
    finally:
        await does(shop, "policy", "unset", "order")
    assert "order@" not in await does(shop, "mesh", "explain", "edge", "order")


async def test_an_explanation_tells_what_envoy_does_and_who_asked_for_it(shop: Shop) -> None:
    assert "calls under way, at most           1024  [seed]" in await does(
        shop, "mesh", "explain", "order", "inventory"
    )
    try:
        await put(shop, "/shop/policy/inventory", '{"circuit_breaker": {"max_requests": 77}}')

        async def explained() -> bool:
            told = await does(shop, "mesh", "explain", "order", "inventory")
            return "calls under way, at most           77  [etcd" in told

        await eventually(explained, "the new limit")

        await put(shop, "/shop/policy/inventory", '{"circuit_breaker": {"max_requests": 0}}')

        async def told_to_differ() -> bool:
            return "77 (asked for 0)" in await does(shop, "mesh", "explain", "order", "inventory")

        await eventually(told_to_differ, "what Envoy goes on with, and what it was asked for")
    finally:
        await does(shop, "policy", "unset", "inventory")


async def test_what_cannot_be_done_is_one_line(shop: Shop) -> None:
    for words in (("scale", "shelf", "1"), ("scale", "product", "10"), ("drain", "etcd"), ("restart", "nobody")):
        assert await does(shop, *words, check=False) == ""  # the line is for stderr
    with_status = json.loads(await does(shop, "mesh", "--json"))
    assert [service["service"] for service in with_status] == ["product", "order", "inventory", "notification"]
