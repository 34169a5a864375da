"""What is put into etcd takes effect while everything runs."""

import json
from datetime import UTC, datetime
from typing import Any

import grpc
from shop.product.v1 import product_pb2, product_pb2_grpc

from tests.support.shop import Shop, put
from tests.support.waiting import eventually


def lines(shop: Shop, since: str) -> list[dict[str, str]]:
    """What the product service has logged since a time (RFC 3339, UTC)."""
    logged = (json.loads(line) for line in (shop.state / "logs" / "product.jsonl").read_text().splitlines())
    return [line for line in logged if line["time"] > since]


async def states(shop: Shop, kind: str, service: str, expected: set[str]) -> list[dict[str, Any]]:
    """The rows of `status`, once they are all in these states."""

    async def look() -> list[dict[str, Any]]:
        told = json.loads(shop.command(kind, "status", "--json", check=False))
        rows = [row for row in told["documents"] if row["service"] == service]
        assert {row["state"] for row in rows} == expected
        return rows

    return await eventually(look, f"the {kind} of {service} is {expected} everywhere")


async def test_a_changed_page_size_and_log_level_take_effect_live(shop: Shop, edge: grpc.aio.Channel) -> None:
    catalogue = product_pb2_grpc.ProductServiceStub(edge)

    async def page_size() -> int:
        return len((await catalogue.ListProducts(product_pb2.ListProductsRequest(), timeout=60)).products)

    assert await page_size() == 20
    before = shop.parts()["product"]["pid"]
    try:
        shop.command("config", "set", "product", "default_page_size=7", "process.log_level=warning")
        assert await page_size() == 7
        quiet_since = datetime.now(UTC).isoformat()
        await page_size()
        await put(shop, "/shop/config/product", '{"default_page_size": -1}')
        (row,) = await states(shop, "config", "product", {"refused"})
        assert "default_page_size" in row["reason"]
        assert [line["level"] for line in lines(shop, quiet_since)] == ["warning"]
        assert await page_size() == 7

        shop.command("config", "rollback", "product")
        assert await page_size() == 7
    finally:
        shop.command("config", "unset", "product")
    assert await page_size() == 20
    assert shop.parts()["product"]["pid"] == before


async def test_every_instance_of_every_service_takes_a_change_for_all(shop: Shop) -> None:
    try:
        said = shop.command("config", "set", "--all", "process.default_deadline=7s")
        assert "in effect at all 5 instances" in said
        told = json.loads(shop.command("config", "status", "--json"))["documents"]

        assert sorted(row["service"] for row in told) == ["inventory", "inventory", "notification", "order", "product"]
        assert len({row["revision"] for row in told}) == 1
    finally:
        shop.command("config", "unset", "--all")


async def test_a_policy_is_told_by_the_control_plane_to_hold_or_to_be_refused(shop: Shop) -> None:
    await states(shop, "policy", "inventory", {"applied"})
    try:
        shop.command("policy", "set", "inventory", "health_check.interval=1s")
        (row,) = await states(shop, "policy", "inventory", {"applied"})
        await put(shop, "/shop/policy/inventory", '{"health_check": {"interval": "1000s"}}')
        (refused,) = await states(shop, "policy", "inventory", {"refused"})
        assert refused["revision"] == row["revision"]
        assert "interval" in refused["reason"]
    finally:
        shop.command("policy", "unset", "inventory")
    await states(shop, "policy", "inventory", {"applied"})
    assert json.loads(shop.command("policy", "status", "--json"))["envoy_refusals"] == []
