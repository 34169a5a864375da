"""The record that says which documents a process goes by, on a real etcd."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import pytest
from google.protobuf import json_format
from mesh.v1 import registry_pb2

from services.chassis.etcd import Etcd, EtcdUnavailable
from services.chassis.status import StatusRecord
from tests.support.etcd import EtcdServer, running_etcd
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    """A server of one's own, to be wiped."""
    with running_etcd() as server:
        yield server


@pytest.fixture
async def store(etcd: EtcdServer) -> AsyncIterator[Etcd]:
    store = Etcd(etcd.endpoint)
    yield store
    await store.close()


@asynccontextmanager
async def telling(store: Etcd, prefix: str, ttl_s: int = 10) -> AsyncIterator[StatusRecord]:
    record = StatusRecord(store, prefix, "fruit", "fruit-1", ttl_s)
    task = asyncio.create_task(record.run())
    try:
        yield record
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await record.leave()


async def says(store: Etcd, prefix: str, revision: int) -> None:
    async def look() -> bool:
        with suppress(EtcdUnavailable):
            entry = await store.get(f"{prefix}status/fruit/fruit-1")
            assert entry
            status = json_format.Parse(entry.value, registry_pb2.Status())
            return status.documents["config/fruit"].revision == revision
        return False

    await eventually(look, f"the record says revision {revision}")


async def test_it_is_told_at_once_and_gone_in_the_end(store: Etcd) -> None:
    prefix = f"/test-{uuid4()}/"
    async with telling(store, prefix) as record:
        for revision in (7, 8):
            record.tell("config/fruit", registry_pb2.AppliedDocument(revision=revision))
            await says(store, prefix, revision)
    assert (await store.get_prefix(prefix)).entries == {}


async def test_it_is_missed_at_once_not_when_the_lease_is_renewed(store: Etcd) -> None:
    prefix = f"/test-{uuid4()}/"
    async with telling(store, prefix, ttl_s=1000) as record:
        record.tell("config/fruit", registry_pb2.AppliedDocument(revision=7))
        await says(store, prefix, 7)
        await store.delete(f"{prefix}status/fruit/fruit-1")
        await says(store, prefix, 7)


@pytest.mark.parametrize("fault", ["wiped", "deleted", "restarted"])
async def test_it_comes_back(store: Etcd, etcd: EtcdServer, fault: str) -> None:
    prefix = f"/test-{uuid4()}/"
    async with telling(store, prefix, ttl_s=2) as record:
        record.tell("config/fruit", registry_pb2.AppliedDocument(revision=7))
        await says(store, prefix, 7)
        match fault:
            case "wiped":
                etcd.wipe()
            case "deleted":
                await store.delete(f"{prefix}status/fruit/fruit-1")
            case _:
                etcd.kill()
                record.tell("config/fruit", registry_pb2.AppliedDocument(revision=8))
                etcd.start()
        await says(store, prefix, 8 if fault == "restarted" else 7)
