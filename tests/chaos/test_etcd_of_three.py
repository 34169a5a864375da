"""An etcd of three members goes on when one of them does not, also for those who are connected to that one."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress

import pytest
from mesh.v1 import registry_pb2

from services.chassis.etcd import Change, Etcd, EtcdUnavailable, Snapshot
from services.chassis.registry import Registration
from tests.support.etcd import EtcdServer, running_etcds
from tests.support.waiting import eventually

PREFIX = "/shop/endpoints/"


@pytest.fixture(scope="module")
def members() -> Iterator[Sequence[EtcdServer]]:
    with running_etcds(3) as members:
        yield members


@asynccontextmanager
async def connected(members: Sequence[EtcdServer], first: int) -> AsyncIterator[Etcd]:
    """To whichever answers; asked is `first` before the others."""
    client = Etcd(",".join(member.endpoint for member in (*members[first:], *members[:first])))
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def running(*tasks: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def follow(client: Etcd, known: dict[str, bytes], vanished: set[str]) -> None:
    async with aclosing(client.watch_prefix(PREFIX)) as changes:
        async for change in changes:
            before = set(known)
            match change:
                case Snapshot():
                    known.clear()
                    known.update({key: entry.value for key, entry in change.entries.items()})
                case Change(value=None):
                    known.pop(change.key, None)
                case Change(value=bytes() as value):
                    known[change.key] = value
            vanished |= before - set(known)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_everybody_goes_on_when_a_member_does_not(members: Sequence[EtcdServer], fault: str) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(members, first)) for first in range(3)]
        tasks, views = [], []
        for number, client in enumerate(clients):
            endpoint = registry_pb2.Endpoint(address=f"127.0.0.1:{5000 + number}")
            here = Registration(client, "/shop/", "fruit", f"{fault}-{number}", endpoint)
            known: dict[str, bytes] = {}
            vanished: set[str] = set()
            views.append((known, vanished))
            tasks += [asyncio.create_task(here.run()), asyncio.create_task(follow(client, known, vanished))]
        await stack.enter_async_context(running(*tasks))

        async def all_know_all(extra: str) -> None:
            wanted = {f"{PREFIX}fruit/{fault}-{number}" for number in range(3)} | {extra}

            async def look() -> bool:
                return all(wanted <= set(known) for known, _ in views)

            await eventually(look, f"all three see {wanted}")

        async def write(key: str) -> None:
            async def put() -> int:
                with suppress(EtcdUnavailable):
                    return await clients[0].put(key, b"{}")
                return 0

            await eventually(put, "etcd takes writes")

        for number, member in enumerate(members):
            await write(f"{PREFIX}before/{fault}-{number}")
            await all_know_all(f"{PREFIX}before/{fault}-{number}")
            member.kill() if fault == "killed" else member.freeze()
            try:
                await write(f"{PREFIX}meanwhile/{fault}-{number}")
                await all_know_all(f"{PREFIX}meanwhile/{fault}-{number}")
            finally:
                member.start() if fault == "killed" else member.thaw()
        assert not any(vanished for _, vanished in views), "no lease ended meanwhile"
