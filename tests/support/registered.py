"""An address that is registered as those of services are."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.v1 import registry_pb2

from services.chassis.etcd import Etcd
from services.chassis.registry import Registration


@asynccontextmanager
async def registered(etcd_endpoint: str, service: str, instance: str, address: str) -> AsyncIterator[None]:
    """As long as the body runs; whoever listens there, `host:port`."""
    etcd = Etcd(etcd_endpoint)
    endpoint = registry_pb2.Endpoint(address=address)
    endpoint.start_time.GetCurrentTime()
    registration = Registration(etcd, "/shop/", service, instance, endpoint)
    renewal = asyncio.create_task(registration.run())
    try:
        yield
    finally:
        await registration.drain()
        renewal.cancel()
        await registration.leave()
        await etcd.close()
