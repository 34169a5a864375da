"""Registrations on a real etcd that forgets, restarts and loses leases."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import pytest
from google.protobuf import json_format
from mesh.v1 import registry_pb2

from services.chassis.etcd import Entry, Etcd, EtcdUnavailable
from services.chassis.registry import Registration
from tests.support.etcd import EtcdServer, running_etcd
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    """A server of one's own, to be killed."""
    with running_etcd() as server:
        yield server


@pytest.fixture
async def client(etcd: EtcdServer) -> AsyncIterator[Etcd]:
    client = Etcd(etcd.endpoint)
    yield client
    await client.close()


@pytest.fixture
def key() -> str:
    """Another in each test: records outlive their processes."""
    return f"/test/endpoints/fruit/{uuid4()}"


def registration(client: Etcd, key: str, address: str = "127.0.0.1:5000", ttl_s: int = 2) -> Registration:
    endpoint = registry_pb2.Endpoint(address=address, version="0.1.0")
    return Registration(client, "/test/", "fruit", key.rpartition("/")[2], endpoint, ttl_s=ttl_s)


@asynccontextmanager
async def registered(registration: Registration) -> AsyncIterator[None]:
    task = asyncio.create_task(registration.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def found(client: Etcd, key: str, but: Entry | None = None) -> Entry:
    """The record, another one than `but`."""

    async def look() -> Entry | None:
        with suppress(EtcdUnavailable):
            entry = await client.get(key)
            return entry if entry != but else None
        return None

    entry = await eventually(look, "it is registered")
    assert entry
    return entry


async def at(client: Etcd, key: str, address: str) -> None:
    """Returns when it is registered there."""

    async def look() -> bool:
        with suppress(EtcdUnavailable):
            entry = await client.get(key)
            return entry is not None and endpoint(entry).address == address
        return False

    await eventually(look, f"it is registered at {address}")


async def gone(client: Etcd, key: str) -> None:
    async def look() -> bool:
        with suppress(EtcdUnavailable):
            return await client.get(key) is None
        return False

    await eventually(look, "it is not registered")


def endpoint(entry: Entry) -> registry_pb2.Endpoint:
    return json_format.Parse(entry.value, registry_pb2.Endpoint())


async def test_an_instance_is_ready_then_draining_then_gone(client: Etcd, key: str) -> None:
    here = registration(client, key)
    async with registered(here):
        ready = await found(client, key)
        assert endpoint(ready).state == registry_pb2.Endpoint.STATE_READY
        assert endpoint(ready).address == "127.0.0.1:5000"
        await here.drain()
        assert endpoint(await found(client, key, but=ready)).state == registry_pb2.Endpoint.STATE_DRAINING
    await here.leave()
    assert await client.get(key) is None


async def test_a_process_that_died_is_forgotten_after_its_lease(client: Etcd, key: str) -> None:
    async with registered(registration(client, key)):
        await found(client, key)
    await gone(client, key)


async def test_it_outlives_its_lease_by_renewing_it(client: Etcd, key: str) -> None:
    async with registered(registration(client, key)):
        entry = await found(client, key)
        end = asyncio.get_running_loop().time() + 4

        async def twice_the_ttl_has_passed() -> bool:
            assert await client.get(key) == entry
            return asyncio.get_running_loop().time() > end

        await eventually(twice_the_ttl_has_passed, "twice the ttl has passed")


@pytest.mark.parametrize("loss", ["revoked", "deleted", "restarted", "wiped", "restored"])
async def test_it_registers_again_at_once_after_a_loss(client: Etcd, key: str, etcd: EtcdServer, loss: str) -> None:
    # Renewing the lease would find out after minutes.
    here = registration(client, key, ttl_s=1000)
    predecessor = registration(client, key, "127.0.0.1:4999", ttl_s=1000)
    if loss == "restored":
        async with registered(predecessor):
            await found(client, key)
        etcd.back_up()
    async with registered(here):
        await at(client, key, "127.0.0.1:5000")
        match loss:
            case "revoked":
                assert here._lease
                await client.revoke(here._lease)
            case "deleted":
                await client.delete(key)
            case "restarted":
                etcd.kill()
                etcd.start()
            case "wiped":
                etcd.wipe()
            case _:
                etcd.restore()
        await at(client, key, "127.0.0.1:5000")
    await here.leave()


async def test_it_registers_when_etcd_comes_later_and_in_the_state_it_has_then(
    client: Etcd, key: str, etcd: EtcdServer
) -> None:
    etcd.stop()
    here = registration(client, key)
    async with registered(here):
        async with asyncio.timeout(10):
            await here.drain()
        etcd.start()
        assert endpoint(await found(client, key)).state == registry_pb2.Endpoint.STATE_DRAINING
    await here.leave()


async def test_leaving_does_not_wait_for_an_etcd_that_is_away(client: Etcd, key: str, etcd: EtcdServer) -> None:
    here = registration(client, key)
    async with registered(here):
        await found(client, key)
    etcd.freeze()
    try:
        async with asyncio.timeout(10):
            await here.drain()
            await here.leave()
    finally:
        etcd.thaw()
    await gone(client, key)


async def test_who_leaves_late_does_not_take_the_record_of_its_successor(client: Etcd, key: str) -> None:
    old, new = registration(client, key, "127.0.0.1:5000"), registration(client, key, "127.0.0.1:5001")
    async with registered(old):
        first = await found(client, key)
    async with registered(new):
        second = await found(client, key, but=first)
        await old.leave()
        assert await client.get(key) == second
        assert endpoint(second).address == "127.0.0.1:5001"
    await new.leave()
