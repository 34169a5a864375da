"""What operators wrote comes back after a loss of etcd's data, on a real etcd."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from services.chassis.etcd import Etcd, EtcdUnavailable
from services.controlplane.kept import Kept
from services.controlplane.model import Seen
from services.controlplane.seeds import Seeds
from services.controlplane.source import Source
from services.files import resource
from tests.support.etcd import EtcdServer, running_etcd
from tests.support.waiting import eventually

METHODS = dict.fromkeys(("product", "inventory"), ())
POLICY, CONFIG, SEEDED = "/shop/policy/product", "/shop/config/inventory", "/shop/seeded"
SLOW, SAMPLED = b'{"health_check": {"interval": "3s"}}', b'{"process": {"sampling_percent": 7}, "hold_ttl": "60s"}'


@pytest.fixture
def server() -> Iterator[EtcdServer]:
    """A server of one's own, to be wiped."""
    with running_etcd() as server:
        yield server


@pytest.fixture
async def etcd(server: EtcdServer) -> AsyncIterator[Etcd]:
    connection = Etcd(server.endpoint)
    yield connection
    await connection.close()


@asynccontextmanager
async def following(server: EtcdServer, *files: Path) -> AsyncIterator[list[list[float]]]:
    """A control plane per file; what each has believed of the two documents, in turn."""
    seeds = Seeds.read(resource("etcd/seed"), METHODS)
    told: list[list[float]] = []
    connections = [Etcd(server.endpoint) for _ in files]
    tasks = []
    for connection, file in zip(connections, files, strict=True):
        believed: list[float] = []

        def see(seen: Seen, believed: list[float] = believed) -> None:
            believed.append(seen.policies["product"].health_check.interval.ToSeconds() + seen.sampling["inventory"])

        source = Source(connection, "/shop/", METHODS, seeds, Kept(file), dict[str, object]().__setitem__)
        tasks.append(asyncio.create_task(source.follow(see)))
        told.append(believed)
    try:
        yield told
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for connection in connections:
            await connection.close()


async def holds(etcd: Etcd, *expected: str | tuple[str, bytes]) -> int:
    """Returns when exactly these keys are there, with these values; the revision of the key `seeded`."""
    wanted = dict((key, b"{}") if isinstance(key, str) else key for key in expected)

    async def look() -> int:
        with suppress(EtcdUnavailable):
            there = (await etcd.get_prefix("/shop/")).entries
            assert {key: entry.value for key, entry in there.items()} == wanted
            return there[SEEDED].revision if SEEDED in there else 1
        return 0

    return await eventually(look, f"etcd holds {sorted(wanted)}")


async def believes(believed: list[float], expected: float) -> None:
    async def look() -> bool:
        return believed[-1:] == [expected]

    await eventually(look, f"the control plane goes by {expected}")


async def test_a_first_start_writes_the_key_only(server: EtcdServer, etcd: Etcd, tmp_path: Path) -> None:
    async with following(server, tmp_path / "a.json"):
        await holds(etcd, SEEDED)


async def test_a_wiped_etcd_gets_its_documents_back_once(server: EtcdServer, etcd: Etcd, tmp_path: Path) -> None:
    async with following(server, tmp_path / "a.json", tmp_path / "b.json") as (a, b):
        await holds(etcd, SEEDED)
        await etcd.put(POLICY, SLOW)
        await etcd.put(CONFIG, SAMPLED)
        for believed in (a, b):
            await believes(believed, 3 + 7)
            believed.clear()

        server.wipe()

        revision = await holds(etcd, SEEDED, (POLICY, SLOW), (CONFIG, SAMPLED))
        entries = (await etcd.get_prefix("/shop/")).entries.values()
        assert {entry.revision for entry in entries} == {revision} == {2}, "one transaction, by one of the two"
        await etcd.put(POLICY, b'{"health_check": {"interval": "4s"}}')
        for believed in (a, b):
            await believes(believed, 4 + 7)
            assert set(believed) <= {3 + 7, 4 + 7}, "nobody went back to the seeds in between"


async def test_it_comes_back_also_when_no_control_plane_saw_the_wipe(
    server: EtcdServer, etcd: Etcd, tmp_path: Path
) -> None:
    file = tmp_path / "made when needed" / "a.json"
    async with following(server, file) as (believed,):
        await holds(etcd, SEEDED)
        await etcd.put(POLICY, SLOW)
        await etcd.put(CONFIG, SAMPLED)
        await etcd.put("/shop/policy/inventory", SLOW)
        await etcd.delete("/shop/policy/inventory")
        await etcd.put(POLICY, b'{"health_check": "soon"}')
        await believes(believed, 3 + 7)
        await holds(etcd, SEEDED, (POLICY, b'{"health_check": "soon"}'), (CONFIG, SAMPLED))

    server.wipe()

    async with following(server, file):
        await holds(etcd, SEEDED, (POLICY, SLOW), (CONFIG, SAMPLED))


async def test_what_was_written_after_the_wipe_stays(server: EtcdServer, etcd: Etcd, tmp_path: Path) -> None:
    newer = b'{"health_check": {"interval": "5s"}}'
    kept = Kept(tmp_path / "a.json")
    kept.keep({POLICY: SLOW, CONFIG: SAMPLED})
    await etcd.put(POLICY, newer)
    async with following(server, tmp_path / "a.json"):
        await holds(etcd, SEEDED, (POLICY, newer), (CONFIG, SAMPLED))


async def test_a_document_that_was_deleted_meanwhile_stays_deleted(
    server: EtcdServer, etcd: Etcd, tmp_path: Path
) -> None:
    Kept(tmp_path / "a.json").keep({POLICY: SLOW, CONFIG: SAMPLED})
    await etcd.put(SEEDED, b"{}")
    await etcd.put(CONFIG, SAMPLED)
    async with following(server, tmp_path / "a.json") as (believed,):
        await eventually(lambda: asyncio.sleep(0, believed), "it has told")
        await holds(etcd, SEEDED, (CONFIG, SAMPLED))
        assert Kept(tmp_path / "a.json").documents == {CONFIG: SAMPLED}


async def test_an_etcd_from_an_old_backup_is_believed(server: EtcdServer, etcd: Etcd, tmp_path: Path) -> None:
    async with following(server, tmp_path / "a.json") as (believed,):
        await holds(etcd, SEEDED)
        await etcd.put(POLICY, SLOW)
        server.back_up()
        await holds(etcd, SEEDED, (POLICY, SLOW))
        await etcd.put(POLICY, b'{"health_check": {"interval": "9s"}}')
        await etcd.put(CONFIG, SAMPLED)
        await believes(believed, 9 + 7)

        server.restore()

        await holds(etcd, SEEDED, (POLICY, SLOW))
        await believes(believed, 3 + Seeds.read(resource("etcd/seed"), METHODS).sampling_percent("inventory"))


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "\0"])
def test_a_broken_file_is_no_copy(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert Kept(tmp_path / "a.json").documents == {}
