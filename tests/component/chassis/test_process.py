"""The life of a process, seen from outside: a real one, with a real etcd."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from mesh.v1 import registry_pb2

from services.chassis.etcd import Etcd
from tests.support.etcd import EtcdServer
from tests.support.issuer import Issuer
from tests.support.ports import free_port
from tests.support.refused import outcome
from tests.support.ruled_echo import SERVICE, EchoStub, Text
from tests.support.waiting import DEADLINE_S, eventually

CONFIG_KEY = "/shop/config/product"


class Child:
    """A started process; what it has logged is read from its file."""

    def __init__(self, folder: Path, instance: str, **environ: str) -> None:
        self.instance, self._log = instance, folder / f"{instance}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.ruled_process"],
                env={**os.environ, "SHOPMESH_INSTANCE": instance, "SHOPMESH_STATE_DIR": str(folder), **environ},
                stdout=log,
                stderr=log,
            )

    def lines(self, message: str = "") -> list[dict[str, Any]]:
        lines = [orjson.loads(line) for line in self._log.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"]
        return [line for line in lines if not message or line["message"] == message]

    def text(self) -> str:
        return self._log.read_text()

    async def said(self, message: str) -> dict[str, Any]:
        """The first line with this message, as soon as it is there."""

        async def look() -> list[dict[str, Any]]:
            assert self.process.poll() is None or self.lines(message), self.text()
            return self.lines(message)

        return (await eventually(look, f"the line {message!r}"))[0]

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, DEADLINE_S)

    def tell(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)


@contextmanager
def child(folder: Path, instance: str, **environ: str) -> Iterator[Child]:
    started = Child(folder, instance, **environ)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.process.wait()


@pytest.fixture(scope="module")
def environ(etcd: EtcdServer, issuer: Issuer) -> dict[str, str]:
    return {"SHOPMESH_ETCD": etcd.endpoint, "SHOPMESH_ISSUER": issuer.url}


@pytest.fixture
async def store(etcd: EtcdServer) -> AsyncIterator[Etcd]:
    store = Etcd(etcd.endpoint)
    yield store
    await store.delete(CONFIG_KEY)
    await store.close()


@pytest.fixture(scope="module")
async def started(
    environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Child, grpc.aio.Channel]]:
    """One that is registered, and a channel to it, for all tests that leave it as it is."""
    async with starting(tmp_path_factory.mktemp("started"), environ) as started:
        yield started


@asynccontextmanager
async def starting(folder: Path, environ: dict[str, str]) -> AsyncIterator[tuple[Child, grpc.aio.Channel]]:
    """The same for a test that ends it."""
    with child(folder, f"product-{folder.name}", **environ) as process:
        address = (await process.said("registered"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            yield process, channel


async def state_in(store: Etcd, instance: str) -> int | None:
    entry = await store.get(f"/shop/endpoints/product/{instance}")
    return json_format.Parse(entry.value, registry_pb2.Endpoint()).state if entry else None


async def test_a_process_is_found_in_good_health(started: tuple[Child, grpc.aio.Channel], store: Etcd) -> None:
    process, channel = started
    health: Any = health_pb2_grpc.HealthStub(channel)  # its stub does not know what it gets in __init__

    for service in ("", SERVICE):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert await state_in(store, process.instance) == registry_pb2.Endpoint.STATE_READY


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_it_tells_what_it_serves(version: str, started: tuple[Child, grpc.aio.Channel]) -> None:
    ask = started[1].stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{SERVICE}.Say"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{SERVICE}.Shout"),
    ]

    services, of_service, of_method, unknown = [answer async for answer in ask(iter(requests))]

    assert SERVICE in [service.name for service in services.list_services_response.service]
    assert len(of_service.file_descriptor_response.file_descriptor_proto) > 1
    assert of_method.file_descriptor_response == of_service.file_descriptor_response
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_a_call_is_logged_with_its_trace(started: tuple[Child, grpc.aio.Channel]) -> None:
    process, channel = started
    await EchoStub(channel).Say(Text(text="hi"), metadata=[("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")])

    line = await process.said("call")

    assert list(line)[:5] == ["time", "level", "service", "instance", "message"]
    assert (line["service"], line["instance"], line["trace_id"]) == ("product", process.instance, "a" * 32)


async def test_configuration_takes_effect_live(started: tuple[Child, grpc.aio.Channel], store: Etcd) -> None:
    process, channel = started
    stub = EchoStub(channel)

    async def page_size(expected: str) -> bool:
        return bool((await stub.Say(Text(text="page size"))).text == expected)

    await store.put(CONFIG_KEY, b'{"default_page_size": 7}')
    await eventually(lambda: page_size("7"), "the new page size")
    await store.put(CONFIG_KEY, b'{"default_page_size": 8, "process": {"log_level": "LOG_LEVEL_WARNING"}}')
    await eventually(lambda: page_size("8"), "the new level")
    told = len(process.lines("call"))
    assert told > 0
    await stub.Say(Text(text="hi"))
    assert len(process.lines("call")) == told


async def test_a_process_that_is_told_to_stop_finishes_its_calls(
    environ: dict[str, str], tmp_path: Path, store: Etcd
) -> None:
    async with (
        starting(tmp_path, environ) as (process, channel),
        aclosing(store.watch_prefix("/shop/endpoints/product/")) as changes,
    ):
        await anext(changes)
        slow = asyncio.ensure_future(EchoStub(channel).Say(Text(text="slow")))
        await process.said("slow call begun")

        process.tell(signal.SIGTERM)
        draining, gone = [change async for change in _of(changes, process.instance, 2)]

        assert (await slow).text == "slow"
        assert await process.ended() == 0
    assert json_format.Parse(draining, registry_pb2.Endpoint()).state == registry_pb2.Endpoint.STATE_DRAINING
    assert gone is None
    order = [line["message"] for line in process.lines() if line["message"] in _LIFE]
    assert order == list(_LIFE)


async def test_a_process_that_is_told_to_stop_has_its_streams_go_on_elsewhere(
    environ: dict[str, str], tmp_path: Path
) -> None:
    async with starting(tmp_path, environ) as (process, channel):
        stream: Any = EchoStub(channel).Watch(Text(text="hi"), timeout=DEADLINE_S)
        await stream.read()
        process.tell(signal.SIGTERM)

        refused = await outcome(stream.read())
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STREAM_MOVED")
        assert await process.ended() == 0


async def test_a_process_has_the_keys_of_the_issuer_before_it_is_found(
    environ: dict[str, str], tmp_path: Path, issuer: Issuer
) -> None:
    bearer = (("authorization", f"Bearer {issuer.token('ann')}"),)
    async with starting(tmp_path, environ) as (_, channel):
        issuer.away = True
        try:
            assert (await EchoStub(channel).Say(Text(text="hi"), metadata=bearer)).text == "hi"
        finally:
            issuer.away = False


async def test_a_process_that_is_told_to_stop_takes_calls_as_long_as_they_come(
    environ: dict[str, str], tmp_path: Path
) -> None:
    async with starting(tmp_path, environ) as (process, channel):
        process.tell(signal.SIGTERM)
        await process.said("draining")
        heard_late = time.monotonic() + 1
        while time.monotonic() < heard_late:
            await EchoStub(channel).Say(Text(text="hi"))

        assert await process.ended() == 0


_LIFE = ("draining", "call", "background task ended", "stopped")


async def _of(changes: Any, instance: str, count: int) -> AsyncIterator[Any]:
    async for change in changes:
        if change.key.endswith(f"/{instance}"):
            yield change.value
            if (count := count - 1) == 0:
                return


async def test_it_also_ends_without_etcd(etcd: EtcdServer, environ: dict[str, str], tmp_path: Path) -> None:
    async with starting(tmp_path, environ) as (process, _):
        etcd.freeze()
        try:
            begun = time.monotonic()
            process.tell(signal.SIGINT)
            assert await process.ended() == 0
            assert time.monotonic() - begun < 8
        finally:
            etcd.thaw()


async def test_a_process_takes_calls_before_anybody_can_prove_who_he_is(tmp_path: Path, etcd: EtcdServer) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/realms/shop"
    with child(tmp_path, "product-early", SHOPMESH_ETCD=etcd.endpoint, SHOPMESH_ISSUER=nobody) as process:
        address = (await process.said("registered"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            assert (await outcome(EchoStub(channel).Say(Text()))).code is grpc.StatusCode.OK
        process.tell(signal.SIGTERM)
        assert await process.ended() == 0


async def test_a_process_takes_calls_before_it_knows_where_others_reach_it(
    environ: dict[str, str], tmp_path: Path, store: Etcd
) -> None:
    """Listening at every address, it registers the one that leads to Envoy, whose name may not resolve yet."""
    everywhere = {"SHOPMESH_LISTEN": "0.0.0.0:0", "SHOPMESH_MESH": "envoy.invalid:10000"}
    with child(tmp_path, "product-everywhere", **environ, **everywhere) as process:
        said = await process.said("not registered yet: no address of this machine is known to lead to the mesh")
        assert (said["mesh"], said["attempts"]) == ("envoy.invalid:10000", 1)
        port = (await process.said("ready"))["address"].removeprefix("0.0.0.0:")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert (await EchoStub(channel).Say(Text(text="hi"))).text == "hi"
        assert await state_in(store, process.instance) is None
        begun = time.monotonic()
        process.tell(signal.SIGTERM)
        assert await process.ended() == 0
        assert time.monotonic() - begun < 5


async def test_it_says_what_it_waits_for_and_can_be_told_to_stop_meanwhile(
    environ: dict[str, str], tmp_path: Path
) -> None:
    database = f"postgresql://product@127.0.0.1:{free_port()}/product"
    with child(tmp_path, "product-waiting", **environ, DATABASE_FIRST="yes", SHOPMESH_DATABASE_URL=database) as process:
        await process.said("waiting for the database")
        process.tell(signal.SIGTERM)
        assert await process.ended() == 0
    assert process.lines("ready") == []


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("SHOPMESH_LISTEN", "127.0.0.1", "product: SHOPMESH_LISTEN must be host:port, not '127.0.0.1'"),
        ("SHOPMESH_LISTEN", "127.0.0.1:{taken}", "SHOPMESH_LISTEN=127.0.0.1:{taken} cannot be bound"),
        ("SHOPMESH_ADVERTISE", "shop.example:1", "SHOPMESH_ADVERTISE must be ip:port or ip"),
        ("SHOPMESH_DATABASE_PASSWORD_FILE", "/nowhere", "SHOPMESH_DATABASE_PASSWORD_FILE=/nowhere cannot be read"),
    ],
)
async def test_what_keeps_it_from_starting_is_told_in_one_line(
    variable: str, value: str, says: str, etcd: EtcdServer, environ: dict[str, str], tmp_path: Path
) -> None:
    taken = str(etcd.port)
    wrong = {variable: value.format(taken=taken)} | ({"DATABASE_FIRST": "yes"} if "DATABASE" in variable else {})
    with child(tmp_path, "product-wrong", **environ, **wrong) as process:
        assert await process.ended() == 1
    assert says.format(taken=taken) in process.text()
    assert "Traceback" not in process.text()
