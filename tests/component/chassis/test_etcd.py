"""The connection to etcd, and the watch that heals, on a real etcd that is killed, wiped and compacted."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import aetcd
import pytest

from services.chassis.etcd import Change, Entry, Etcd, EtcdUnavailable, Snapshot
from tests.support.etcd import EtcdServer, running_etcd
from tests.support.proxy import proxy_to
from tests.support.waiting import DEADLINE_S, eventually


@pytest.fixture
async def client(etcd: EtcdServer) -> AsyncIterator[Etcd]:
    async with connected(etcd) as client:
        yield client


@pytest.fixture(scope="module")
def fragile() -> Iterator[EtcdServer]:
    """A server of one's own, to be killed."""
    with running_etcd() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return f"/test-{uuid4()}/"


@asynccontextmanager
async def connected(etcd: EtcdServer) -> AsyncIterator[Etcd]:
    client = Etcd(etcd.endpoint)
    try:
        yield client
    finally:
        await client.close()


class Seen:
    """What a watch has told, kept by a task of its own."""

    def __init__(self, client: Etcd, prefix: str) -> None:
        self.told: list[Snapshot | Change] = []
        self._task = asyncio.create_task(self._watch(client, prefix))

    async def _watch(self, client: Etcd, prefix: str) -> None:
        async with aclosing(client.watch_prefix(prefix)) as changes:
            async for change in changes:
                self.told.append(change)

    @property
    def state(self) -> dict[str, bytes]:
        """What a reader who follows the rules of the watch knows now."""
        state: dict[str, bytes] = {}
        for told in self.told:
            if isinstance(told, Snapshot):
                state = {key: entry.value for key, entry in told.entries.items()}
            elif told.value is None:
                state.pop(told.key, None)
            else:
                state[told.key] = told.value
        return state

    async def knows(self, **expected: bytes) -> None:
        async def look() -> bool:
            return {key.rpartition("/")[2]: value for key, value in self.state.items()} == expected and bool(self.told)

        await eventually(look, f"the watch tells {expected}; told {self.told}")

    async def snapshots(self, count: int) -> None:
        async def look() -> bool:
            return sum(isinstance(told, Snapshot) for told in self.told) >= count

        await eventually(look, f"{count} snapshots")

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


async def write(client: Etcd, key: str, value: bytes) -> None:
    """As soon as etcd takes it."""

    async def put() -> int:
        with suppress(EtcdUnavailable):
            return await client.put(key, value)
        return 0

    await eventually(put, "etcd takes writes")


async def test_what_was_put_is_read_back_with_its_revision(client: Etcd, prefix: str) -> None:
    first = await client.put(f"{prefix}a", b"1")
    second = await client.put(f"{prefix}b", b"2")

    assert await client.get(f"{prefix}a") == Entry(b"1", first)
    listed = await client.get_prefix(prefix)
    assert listed.entries == {f"{prefix}a": Entry(b"1", first), f"{prefix}b": Entry(b"2", second)}
    assert listed.revision >= second

    await client.delete(f"{prefix}a")
    assert await client.get(f"{prefix}a") is None


async def test_a_commit_is_done_whole_or_not_at_all(client: Etcd, prefix: str) -> None:
    a, b = f"{prefix}a", f"{prefix}b"
    revision = await client.commit({a: b"1", b: b"1"}, unchanged={a: 0})
    assert await client.get(b) == Entry(b"1", revision)
    assert await client.commit({a: b"2", b: b"2"}, unchanged={a: 0}) == 0
    assert await client.commit({a: b"3"}, [b], unchanged={a: revision}) > revision
    assert {key: entry.value for key, entry in (await client.get_prefix(prefix)).entries.items()} == {a: b"3"}


async def test_a_lease_takes_its_keys_with_it(client: Etcd, prefix: str) -> None:
    lease = await client.grant(30)
    await client.put(f"{prefix}a", b"1", lease=lease)
    assert await client.refresh(lease)
    await client.revoke(lease)
    assert await client.get(f"{prefix}a") is None
    assert not await client.refresh(lease)


async def test_a_watch_tells_what_is_there_and_then_each_change_once(client: Etcd, prefix: str) -> None:
    await client.put(f"{prefix}a", b"1")
    seen = Seen(client, prefix)
    await seen.snapshots(1)
    await client.put(f"{prefix}b", b"2")
    await client.delete(f"{prefix}a")
    await client.put("/elsewhere", b"3")
    await seen.knows(b=b"2")
    assert [told.key.removeprefix(prefix) for told in seen.told if isinstance(told, Change)] == ["b", "a"]
    await seen.stop()


async def test_a_watch_goes_on_when_etcd_was_killed(fragile: EtcdServer, prefix: str) -> None:
    async with connected(fragile) as client:
        await write(client, f"{prefix}a", b"1")
        seen = Seen(client, prefix)
        await seen.knows(a=b"1")
        fragile.kill()
        with pytest.raises(EtcdUnavailable):
            await client.put(f"{prefix}b", b"lost")
        fragile.start()
        await write(client, f"{prefix}b", b"2")
        await seen.knows(a=b"1", b=b"2")
        await seen.stop()


async def test_a_watch_tells_what_a_wiped_etcd_lacks(fragile: EtcdServer, prefix: str) -> None:
    async with connected(fragile) as client:
        for n in range(50):
            await write(client, f"{prefix}a", b"%d" % n)
        seen = Seen(client, prefix)
        await seen.knows(a=b"49")
        fragile.wipe()
        await write(client, f"{prefix}b", b"2")
        await seen.knows(b=b"2")
        await client.put(f"{prefix}c", b"3")
        await seen.knows(b=b"2", c=b"3")
        await seen.stop()


async def test_a_compacted_history_is_listed_anew(client: Etcd, prefix: str) -> None:
    revision = await client.put(f"{prefix}a", b"1")
    last = await client.put(f"{prefix}a", b"2")
    raw: Any = client._client
    await raw.connect()
    compaction = aetcd.rpc.CompactionRequest(revision=last, physical=True)
    await aetcd.rpc.KVStub(raw.channel).Compact(compaction)

    async with asyncio.timeout(DEADLINE_S):
        assert [change async for change in client._changes(prefix, revision)] == [], "ends: the reader lists"


async def test_an_etcd_that_does_not_answer_is_away_in_time(fragile: EtcdServer) -> None:
    async with connected(fragile) as client:
        await write(client, "/a", b"1")
        fragile.freeze()
        try:
            async with asyncio.timeout(10):
                answers = await asyncio.gather(
                    client.get("/a"), client.put("/a", b"2"), client.grant(5), return_exceptions=True
                )
        finally:
            fragile.thaw()
        assert {type(answer) for answer in answers} == {EtcdUnavailable}


async def test_a_client_can_be_made_before_etcd_is_there(fragile: EtcdServer, prefix: str) -> None:
    fragile.stop()
    async with connected(fragile) as client:
        seen = Seen(client, prefix)
        with pytest.raises(EtcdUnavailable):
            await client.get("/a")
        fragile.start()
        await write(client, f"{prefix}a", b"1")
        await seen.knows(a=b"1")
        await seen.stop()


async def test_a_network_that_hangs_is_noticed(etcd: EtcdServer, prefix: str) -> None:
    async with proxy_to(etcd.port) as proxy, connected(etcd) as beside:
        through = Etcd(f"127.0.0.1:{proxy.port}")
        await write(through, f"{prefix}a", b"1")
        seen = Seen(through, prefix)
        await seen.knows(a=b"1")

        proxy.passes.clear()
        await beside.put(f"{prefix}a", b"2")
        with pytest.raises(EtcdUnavailable):
            await through.get(f"{prefix}a")
        proxy.passes.set()

        await seen.knows(a=b"2")
        await seen.stop()
        await through.close()
