"""Live configuration, on a real etcd."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from google.protobuf import json_format
from mesh.v1 import policy_pb2, registry_pb2

from services.chassis.config import LiveConfig
from services.chassis.etcd import Etcd, EtcdUnavailable
from tests.support.etcd import EtcdServer, running_etcd
from tests.support.waiting import eventually

type Policy = policy_pb2.Policy

SEED = json_format.ParseDict(
    {"retries": {"edge": 1, "mesh": 2, "per_try_timeout": "0.5s"}, "circuit_breaker": {"max_requests": 1024}},
    policy_pb2.Policy(),
)


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
    return f"/test-{uuid4()}/config/fruit"


@asynccontextmanager
async def live(client: Etcd, key: str, file: Path) -> AsyncIterator[LiveConfig[Policy]]:
    config = LiveConfig(client, key, SEED, file)
    task = asyncio.create_task(config.run())
    try:
        yield config
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def put(client: Etcd, key: str, document: object) -> None:
    """As soon as etcd takes it."""

    async def taken() -> int:
        with suppress(EtcdUnavailable):
            return await client.put(key, document if isinstance(document, bytes) else json.dumps(document).encode())
        return 0

    await eventually(taken, "etcd takes the document")


async def reads(config: LiveConfig[Policy], edge: int, mesh: int) -> None:
    async def look() -> bool:
        retries = config.current.retries
        assert (retries.edge, retries.mesh) == (edge, mesh)
        return True

    await eventually(look, f"retries are {edge} at the edge and {mesh} in the mesh")


async def test_a_document_overlays_the_defaults_field_by_field(client: Etcd, key: str, tmp_path: Path) -> None:
    async with live(client, key, tmp_path / "fruit.json") as config:
        assert config.current == SEED
        await put(client, key, {"retries": {"edge": 5}})
        await reads(config, 5, 2)
        assert config.current.circuit_breaker.max_requests == 1024

        await put(client, key, {"retries": {"mesh": 7, "per_try_timeout": "2s"}})
        await reads(config, 1, 7)
        assert config.current.retries.per_try_timeout.ToTimedelta().total_seconds() == 2

        await client.delete(key)
        await reads(config, 1, 2)
        assert config.current == SEED


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"retries": {"edge": 99}}, "retries.edge"),
        ({"retries": {"egde": 1}}, "egde"),
        ({"retries": {"edge": "many"}}, "edge"),
        (b"{broken", "not JSON"),
        (b"\xff\xfe", "utf-8"),
    ],
)
async def test_a_bad_document_is_refused_by_name_and_the_last_good_one_stays(
    client: Etcd, key: str, tmp_path: Path, bad: object, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with live(client, key, tmp_path / "fruit.json") as config:
        await put(client, key, {"retries": {"edge": 5}})
        await reads(config, 5, 2)
        await put(client, key, bad)
        said = ""

        async def refused() -> bool:
            nonlocal said
            said += capsys.readouterr().out
            return "configuration refused" in said

        await eventually(refused, "the document is refused")
        assert named in said
        await reads(config, 5, 2)
        await put(client, key, {"retries": {"edge": 6}})
        await reads(config, 6, 2)


async def test_the_last_good_configuration_holds_while_etcd_is_away(
    client: Etcd, key: str, tmp_path: Path, etcd: EtcdServer
) -> None:
    file = tmp_path / "deep" / "fruit.json"
    async with live(client, key, file) as config:
        await put(client, key, {"retries": {"edge": 5}})
        await reads(config, 5, 2)
    etcd.kill()
    async with live(client, key, file) as config:
        await reads(config, 5, 2)
        etcd.start()
        await put(client, key, {"retries": {"edge": 4}})
        await reads(config, 4, 2)


async def test_a_wiped_etcd_does_not_bring_the_defaults_back(
    client: Etcd, key: str, tmp_path: Path, etcd: EtcdServer
) -> None:
    seen: list[int] = []
    async with live(client, key, tmp_path / "fruit.json") as config:
        for edge in (3, 4, 5):
            await put(client, key, {"retries": {"edge": edge}})
        await reads(config, 5, 2)
        config.subscribe(lambda policy: seen.append(policy.retries.edge))
        etcd.wipe()
        await put(client, key, {"retries": {"edge": 6}})
        await reads(config, 6, 2)
    assert seen == [5, 6]


async def test_a_document_that_was_deleted_meanwhile_returns_to_the_defaults(
    client: Etcd, key: str, tmp_path: Path
) -> None:
    file = tmp_path / "fruit.json"
    async with live(client, key, file) as config:
        await put(client, key, {"retries": {"edge": 5}})
        await reads(config, 5, 2)
    await client.delete(key)
    async with live(client, key, file) as config:
        await reads(config, 1, 2)


@pytest.mark.parametrize(
    "kept", [b"", b"{}", b"[]", b'{"revision": 1, "document": "{\\"retries\\": {\\"edge\\": 99}}"}']
)
async def test_a_spoiled_file_is_no_obstacle(client: Etcd, key: str, tmp_path: Path, kept: bytes) -> None:
    file = tmp_path / "fruit.json"
    file.write_bytes(kept)
    assert LiveConfig(client, key, SEED, file).current == SEED


async def test_documents_of_other_services_are_not_its_business(client: Etcd, key: str, tmp_path: Path) -> None:
    async with live(client, key, tmp_path / "fruit.json") as config:
        await put(client, f"{key}-salad", {"retries": {"edge": 9}})
        await put(client, key, {"retries": {"edge": 3}})
        await reads(config, 3, 2)


async def test_it_tells_which_document_holds_and_which_was_refused(client: Etcd, key: str, tmp_path: Path) -> None:
    standing = registry_pb2.AppliedDocument()

    def holds(revision: int, refused: int = 0) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            return (standing.revision, standing.refused.revision) == (revision, refused)

        return look

    async with live(client, key, tmp_path / "fruit.json") as config:
        config.hear(standing.CopyFrom)
        good = await client.put(key, b'{"retries": {"edge": 5}}')
        await eventually(holds(good), "the good one holds")
        bad = await client.put(key, b'{"retries": {"edge": 99}}')
        await eventually(holds(good, refused=bad), "the bad one is refused, the good one holds")
        assert "retries.edge" in standing.refused.reason
        same = await client.put(key, b'{"retries": {"edge": 5}}')
        await eventually(holds(same), "the same in a newer revision holds")
        await client.delete(key)
        await eventually(holds(0), "nothing but the defaults holds")
