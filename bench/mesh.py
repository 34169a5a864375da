"""What the mesh costs: from a put in etcd to the traffic, the control plane's work for it, its start, Envoy's part.

`python -m bench.mesh [FILE]` measures this alone, and writes the figures to FILE.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, override

import grpc
import grpc.aio
import uvloop
from google.protobuf import json_format, timestamp_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from mesh.v1 import registry_pb2

from bench import costs, many, report
from bench.load import percentile
from bench.streams import Stream
from services.chassis.etcd import Etcd
from tests.support.etcd import EtcdServer
from tests.support.mesh import ControlPlane, Envoy

SIZES = ((4, 1, 1), (500, 10, 100))
"""Services, instances of each, and streams beside that of Envoy."""
PUTS = {4: 40, 500: 20}
"""Of an endpoint, by services; of a policy half as many."""
PAUSE_S = 0.5
STARTS = 3
CALLS = 2000
WITHIN_S = 60.0

type Found = dict[str, Any]


class ManyServices(ControlPlane):
    """The control plane for made-up services."""

    services = 0

    @override
    def command(self) -> Sequence[str | Path]:
        return [*super().command()[:-1], "bench.many", str(self.services)]


@dataclass(slots=True)
class Instance:
    """Answers any rpc with nothing, and knows when it was called first."""

    address: str = ""
    called: float = 0.0

    def service(self, _details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        async def answer(_request: bytes, _context: object) -> bytes:
            self.called = self.called or time.perf_counter()
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def serving() -> AsyncIterator[Instance]:
    """One that is healthy."""
    instance, server = Instance(), grpc.aio.server()
    checked = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checked, server)
    await checked.set("", health_pb2.HealthCheckResponse.SERVING)
    server.add_generic_rpc_handlers([instance])  # type: ignore[list-item]  # has the one method
    instance.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield instance
    await server.stop(0)


def record(address: str, state: registry_pb2.Endpoint.State.ValueType = registry_pb2.Endpoint.STATE_READY) -> bytes:
    """As an instance registers itself."""
    now = timestamp_pb2.Timestamp()
    now.GetCurrentTime()
    return json_format.MessageToJson(registry_pb2.Endpoint(address=address, state=state, start_time=now)).encode()


@dataclass(slots=True)
class Mesh:
    """What runs for one size."""

    etcd: EtcdServer
    controlplane: ManyServices
    envoy: Envoy
    folder: Path
    connection: Etcd

    async def streams_told(self, streams: "subprocess.Popen[str]") -> int:
        """Bytes that all simulated streams have received."""
        assert streams.stdin
        assert streams.stdout
        streams.stdin.write("\n")
        streams.stdin.flush()
        return int(await asyncio.to_thread(streams.stdout.readline))

    def cpu_s(self) -> float:
        """Of the control plane."""
        return costs.cpu_seconds({"controlplane": self.controlplane.pid})["controlplane"]


@contextmanager
def _servers(services: int) -> Iterator[tuple[EtcdServer, ManyServices, Envoy, Path]]:
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="shopmesh-bench-mesh-")))
        for part in ("etcd", "controlplane", "envoy"):
            (folder / part).mkdir()
        etcd, controlplane = EtcdServer(folder / "etcd"), ManyServices(folder / "controlplane")
        envoy = Envoy(folder / "envoy")
        controlplane.services, envoy.ads_ports = services, (controlplane.port,)
        controlplane.environment = {
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "SHOPMESH_INSTANCE": "controlplane",
            "SHOPMESH_EDGE_LISTEN": envoy.edge,
            "SHOPMESH_MESH_LISTEN": envoy.mesh,
            "SHOPMESH_ETCD": etcd.endpoint,
            "SHOPMESH_ISSUER": "http://127.0.0.1:1",
            "SHOPMESH_STATE_DIR": str(folder / "last-good"),
        }
        for server in (etcd, controlplane, envoy):
            held.callback(server.kill)
        etcd.start()
        yield etcd, controlplane, envoy, folder


async def _measured(services: int, instances: int, streams: int) -> Found:
    found: Found = {"services": services, "instances": instances, "streams": streams + 1}
    with _servers(services) as (etcd, controlplane, envoy, folder):
        connection = Etcd(etcd.endpoint)
        mesh = Mesh(etcd, controlplane, envoy, folder, connection)
        async with serving() as one, serving() as other:
            for number in range(services):
                # Addresses that nobody listens on, but for the service that is called: Envoy checks them all the same.
                addresses = [f"127.{1 + at}.{number // 250}.{1 + number % 250}:9" for at in range(instances)]
                if number == 0:
                    addresses[0] = one.address
                registered = {
                    f"/shop/endpoints/{many.name(number)}/{at}": record(address) for at, address in enumerate(addresses)
                }
                await connection.commit(registered, unchanged={})
            found["starts"] = [await _start(mesh, again=bool(number)) for number in range(STARTS)]
            await asyncio.to_thread(envoy.start)
            command = [sys.executable, "-m", "bench.streams", f"127.0.0.1:{controlplane.port}", str(streams)]
            with _listening(command) as simulated:
                await mesh.streams_told(simulated)
                found |= await _changes(mesh, simulated, other, found)
            if services == SIZES[0][0]:
                found["calls"] = await _calls(mesh, one)
        await connection.close()
    return found


@contextmanager
def _listening(command: Sequence[str]) -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as simulated:
        try:
            yield simulated
        finally:
            simulated.kill()


async def _start(mesh: Mesh, *, again: bool) -> Found:
    """Until a stream has clusters and all assignments: from the command, and in CPU of the control plane."""
    if again:
        await asyncio.to_thread(mesh.controlplane.stop)
    begun, stream = time.monotonic(), Stream()
    await asyncio.to_thread(mesh.controlplane.start)
    task = asyncio.create_task(stream.run(f"127.0.0.1:{mesh.controlplane.port}"))
    await asyncio.wait_for(stream.told.wait(), WITHIN_S)
    found = {"took_s": time.monotonic() - begun, "cpu_s": mesh.cpu_s(), "last_good": again}
    task.cancel()
    return found


async def _changes(mesh: Mesh, simulated: "subprocess.Popen[str]", other: Instance, size: Found) -> Found:
    service, etcd, streams = many.name(0), mesh.connection, size["streams"] - 1
    endpoint, policy = f"/shop/endpoints/{service}/new", f"/shop/policy/{service}"
    unlimited = b'{"rate_limit": {"address": {"calls": 0}}}'
    limited = b'{"rate_limit": {"address": {"calls": 1, "per": "3600s", "burst": 1}}}'
    async with (
        grpc.aio.insecure_channel(mesh.envoy.mesh, options=[("grpc.default_authority", service)]) as peer,
        grpc.aio.insecure_channel(mesh.envoy.edge) as outside,
    ):

        async def code(channel: grpc.aio.Channel) -> grpc.StatusCode:
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(many.path(service))
            return await method(b"", timeout=5).code()

        async def endpoint_used() -> float:
            other.called = 0
            begun = time.perf_counter()
            await etcd.put(endpoint, record(other.address))
            await _until(lambda: _called(code(peer), other))
            took = other.called - begun
            # As it leaves: nobody waits for it.
            await etcd.put(endpoint, record(other.address, registry_pb2.Endpoint.STATE_DRAINING))
            await etcd.delete(endpoint)
            await _until(lambda: _left_alone(lambda: code(peer), other))
            return took

        async def policy_used() -> float:
            begun = time.perf_counter()
            await etcd.put(policy, limited)
            await _until(lambda: _is(code(outside), grpc.StatusCode.RESOURCE_EXHAUSTED))
            took = time.perf_counter() - begun
            await etcd.put(policy, unlimited)
            await _until(lambda: _is(code(outside), grpc.StatusCode.OK))
            return took

        found: Found = {}
        await _until(lambda: _is(code(peer), grpc.StatusCode.OK))
        await etcd.put(policy, unlimited)
        for what, change, puts in (("endpoint", endpoint_used, 3), ("policy", policy_used, 2)):
            for _ in range(3):
                await change()
            await _quiet(mesh, simulated)
            before, cpu = await _quiet(mesh, simulated), mesh.cpu_s()
            times = PUTS[size["services"]]
            took = [await _after_a_pause(change) for _ in range(times if what == "endpoint" else times // 2)]
            received = await _quiet(mesh, simulated) - before
            found[what] = {
                "took_s": sorted(took),
                "cpu_s_per_change": (mesh.cpu_s() - cpu) / len(took) / puts,
                "bytes_per_change": received / streams / len(took) / puts,
            }
        return found


async def _after_a_pause(change: Callable[[], Awaitable[float]]) -> float:
    """When all streams have acknowledged the change before."""
    await asyncio.sleep(PAUSE_S)
    return await change()


async def _quiet(mesh: Mesh, simulated: "subprocess.Popen[str]") -> int:
    """What streams have received, when nothing more comes."""
    last = -1
    while (now := await mesh.streams_told(simulated)) != last:
        last = now
        await asyncio.sleep(0.5)
    return last


async def _called(code: Awaitable[grpc.StatusCode], instance: Instance) -> bool:
    await code
    return instance.called > 0


async def _left_alone(call: Callable[[], Awaitable[grpc.StatusCode]], instance: Instance) -> bool:
    instance.called = 0
    for _ in range(30):
        await call()
    return not instance.called


async def _is(code: Awaitable[grpc.StatusCode], wanted: grpc.StatusCode) -> bool:
    return await code is wanted


async def _until(look: Callable[[], Awaitable[bool]]) -> None:
    """Asks without a pause: each question is a call, and its time the grain of the measurement."""
    end = time.monotonic() + WITHIN_S
    while not await look():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {WITHIN_S:.0f} s")


async def _calls(mesh: Mesh, instance: Instance) -> list[Found]:
    """One call at a time, and sixteen, past Envoy and through it, in turns."""
    service = many.name(0)
    options = {"direct": [("grpc.default_authority", service)], "envoy": [("grpc.default_authority", service)]}
    addresses = {"direct": instance.address, "envoy": mesh.envoy.mesh}
    found = []
    for concurrency in (1, 16):
        for number in range(3):
            for way, address in addresses.items():
                async with grpc.aio.insecure_channel(address, options=options[way]) as channel:
                    row = await _load(channel, many.path(service), concurrency, mesh.envoy.pid)
                found.append({"way": way, "concurrency": concurrency, "round": number, **row})
    return found


async def _load(channel: grpc.aio.Channel, path: str, concurrency: int, envoy: int) -> Found:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    pids = {"envoy": envoy, "ends": os.getpid()}
    for _ in range(100):
        await method(b"")
    took: list[float] = []
    before, begun = costs.cpu_seconds(pids), time.perf_counter()

    async def caller() -> None:
        for _ in range(CALLS // concurrency):
            start = time.perf_counter()
            await method(b"")
            took.append(time.perf_counter() - start)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(caller())
    lasted, after = time.perf_counter() - begun, costs.cpu_seconds(pids)
    took.sort()
    return {
        "p50": percentile(took, 0.5), "p99": percentile(took, 0.99), "per_second": len(took) / lasted,
        "cpu_ms": {role: 1000 * (after[role] - before[role]) / len(took) for role in pids},
    }  # fmt: skip


def measure() -> list[Found]:
    """A row for each size."""
    found = []
    for services, instances, streams in SIZES:
        row = uvloop.run(_measured(services, instances, streams))
        found.append(row)
        for what in ("endpoint", "policy"):
            p50, p99 = (percentile(row[what]["took_s"], share) for share in (0.5, 0.99))
            print(f"  {services} services, {what} put to traffic: p50 {p50:.1f} ms, p99 {p99:.1f} ms", flush=True)
    return found


if __name__ == "__main__":
    rows = measure()
    for file in sys.argv[1:]:
        Path(file).write_text(json.dumps({"mesh": rows}, indent=1))
    print(report.mesh(rows))
