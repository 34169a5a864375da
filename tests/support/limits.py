"""A shop whose edge limits nobody, for tests and measurements that call more than a person would."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from services.chassis.etcd import Etcd
from services.files import resource
from tests.support.shop import Shop
from tests.support.waiting import eventually

_LIFTED = {"rate_limit": {"user": {"calls": 0}, "address": {"calls": 0}}}


async def lift_limits(shop: Shop) -> None:
    """As an operator does it: by policies in etcd, in the place of what they said. Returns when Envoy has them."""
    async with _policies(shop) as (etcd, keys):
        for key in keys:
            await etcd.put(key, json.dumps(_LIFTED).encode())
    await _lifted(shop)


@asynccontextmanager
async def no_limits(shop: Shop) -> AsyncIterator[None]:
    """Limits lifted for a while; then the seeds hold again."""
    try:
        await lift_limits(shop)
        yield
    finally:
        async with _policies(shop) as (etcd, keys):
            for key in keys:
                await etcd.delete(key)


@asynccontextmanager
async def _policies(shop: Shop) -> AsyncIterator[tuple[Etcd, list[str]]]:
    """The shop's etcd, and the key of each service's policy in it."""
    etcd = Etcd(f"127.0.0.1:{shop.ports['etcd']}")
    try:
        yield etcd, [f"/shop/policy/{seed.stem}" for seed in resource("etcd/seed/policy").glob("*.json")]
    finally:
        await etcd.close()


async def _lifted(shop: Shop) -> None:
    async with httpx.AsyncClient(trust_env=False) as admin:

        async def lifted() -> bool:
            page = f"http://127.0.0.1:{shop.ports['envoy-admin']}/config_dump"
            [dump] = (await admin.get(page, params={"mask": "dynamic_route_configs"})).json()["configs"]
            tables = [routes["route_config"] for routes in dump["dynamic_route_configs"]]
            [host] = next(table for table in tables if table["name"] == "edge")["virtual_hosts"]
            limits = host["typed_per_filter_config"]["envoy.filters.http.local_ratelimit"]
            return [bucket["entries"][0]["value"] for bucket in limits["descriptors"]] == ["controlplane"]

        await eventually(lifted, "Envoy counts no calls to services")
