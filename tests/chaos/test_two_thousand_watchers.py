"""Two thousand orders watched on one instance, through a real Envoy: what that costs, and what its end costs."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import psutil
import pytest
from shop.order.v1 import order_pb2 as pb
from shop.order.v1.order_pb2_grpc import OrderServiceStub

from services.chassis.database import Database
from services.chassis.errors import refusal_of
from services.order.domain import OrderPlaced
from services.order.store import SqlOrders
from tests.support.mesh import Mesh, running_mesh
from tests.support.ports import free_port
from tests.support.postgres import Postgres
from tests.support.serving import Metadata, ServiceProcess, bearing
from tests.support.waiting import DEADLINE_S, eventually
from tests.unit.order.fakes import order

WATCHERS = 2_000
CONNECTIONS = 3
"""One carries 1024 streams."""
IDLE_S = 10.0
TICK_S = 0.2
TOLD_S = 1.0
"""A server process of PostgreSQL tells what it has counted once in that time."""
STREAMS = "cluster.order/streams"


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with running_mesh() as mesh:
        yield mesh


class Watcher:
    """Goes on by itself, as `shopmesh order --watch` does."""

    def __init__(self, stub: OrderServiceStub, name: str, metadata: Metadata, ended: Counter[str]) -> None:
        self._stub, self._name, self._metadata, self._ended = stub, name, metadata, ended
        self.heard = list[pb.Order]()

    async def run(self) -> None:
        while True:
            request = pb.WatchOrderRequest(name=self._name, after_etag=self.heard[-1].etag if self.heard else "")
            try:
                async for answer in self._stub.WatchOrder(request, metadata=self._metadata):
                    self.heard.append(answer.order)
            except grpc.aio.AioRpcError as error:
                refusal = refusal_of(error)
                why = refusal.reason if refusal else error.details() or ""
                self._ended[f"{error.code().name}/{why}"] += 1
                if why != "STREAM_MOVED":
                    await asyncio.sleep(0.2)
            else:
                self._ended["OK"] += 1
                return


@asynccontextmanager
async def instance(mesh: Mesh, database_url: str, name: str) -> AsyncIterator[ServiceProcess]:
    with TemporaryDirectory(prefix="shopmesh-test-order-") as folder:
        process = ServiceProcess(
            "order", Path(folder), INSTANCE=name, DATABASE_URL=database_url, ETCD=mesh.etcd.endpoint,
            ISSUER=mesh.issuer.url, MESH=mesh.envoy.mesh, NATS_URL=f"nats://127.0.0.1:{free_port()}",
        )  # fmt: skip
        process.start()
        try:
            yield process
        finally:
            await asyncio.to_thread(process.stop)


async def all_of(done: Callable[[], int], what: str) -> None:
    async def look() -> bool:
        await asyncio.sleep(0.1)
        assert done() == WATCHERS, done()
        return True

    await eventually(look, what)


async def test_two_thousand_watchers_cost_one_query_per_tick_and_lose_nothing_when_their_instance_ends(
    mesh: Mesh, postgres: Postgres
) -> None:
    url = await postgres.make("services.order")
    metadata = bearing(mesh.issuer.token("ann", ["customer"]))
    async with AsyncExitStack() as held:
        await held.enter_async_context(mesh.policy("order", rate_limit={"user": {"calls": 0}}))
        database = await Database.connect(url)
        held.push_async_callback(database.close)
        orders = SqlOrders(database, lambda: None)
        placed = [order(request_id=f"r{number}") for number in range(WATCHERS)]
        for number, each in enumerate(placed):
            await orders.add(each, OrderPlaced(each), f"r{number}")
        await database.execute("update orders set settled_time = now()")
        stubs = []
        for number in range(CONNECTIONS):
            own = [("grpc.use_local_subchannel_pool", 1), ("connection", number)]
            channel = await held.enter_async_context(grpc.aio.insecure_channel(mesh.envoy.edge, options=own))
            stubs.append(OrderServiceStub(channel))
        first = await held.enter_async_context(instance(mesh, url, "order-first"))
        await mesh.healthy("order/streams", 1)
        process, ended = psutil.Process(first.pid), Counter[str]()
        before = process.memory_full_info().pss

        watchers = [
            Watcher(stubs[number % CONNECTIONS], f"orders/{each.id}", metadata, ended)
            for number, each in enumerate(placed)
        ]
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for watcher in watchers:
                tasks.create_task(watcher.run())
            await all_of(lambda: sum(len(watcher.heard) == 1 for watcher in watchers), "all have the present")
            told_s = time.monotonic() - began
            starting = dict(ended)

            # Idle.
            async def scans() -> int:
                await asyncio.sleep(1.2)  # Until a server process has told what it counted.
                return int(await database.fetchval(
                    "select idx_scan from pg_stat_user_indexes where indexrelname = 'order_events_pkey'"
                ))  # fmt: skip

            looked, cpu, began = await scans(), sum(process.cpu_times()[:2]), time.monotonic()
            await asyncio.sleep(IDLE_S)
            cpu_share = (sum(process.cpu_times()[:2]) - cpu) / (time.monotonic() - began)
            looks = (await scans() - looked) / WATCHERS
            passed = time.monotonic() - began
            pss = process.memory_full_info().pss - before
            active = mesh.envoy.number(f"{STREAMS}.upstream_rq_active")
            overflows = mesh.envoy.number(f"{STREAMS}.upstream_rq_pending_overflow")

            # The instance ends; another one is there.
            await held.enter_async_context(instance(mesh, url, "order-second"))
            await mesh.healthy("order/streams", 2)
            moving = Counter(ended)
            began = time.monotonic()
            await asyncio.to_thread(first.stop)
            stopped_s = time.monotonic() - began

            async def moved() -> bool:
                return mesh.envoy.number(f"{STREAMS}.upstream_rq_active") == WATCHERS

            await eventually(moved, "all go on elsewhere")
            moved_s, how = time.monotonic() - began, ended - moving

            # Every order changes; another one of them each time.
            began = time.monotonic()
            await asyncio.gather(*(cancelled(stubs, each.id, metadata) for each in placed))
        heard_s = time.monotonic() - began

    print(  # noqa: T201  figures for docs/benchmarks.md
        f"\n{WATCHERS} watchers had the present after {told_s:.1f} s; idle they take {cpu_share:.1%} of a CPU, "
        f"{pss / 2**20:.0f} MiB and {looks / passed:.2f} queries/s; {stopped_s:.1f} s after their instance was told to "
        f"end it had, and after {moved_s:.1f} s all had gone on elsewhere ({dict(how)}); {WATCHERS} orders were "
        f"cancelled and heard of within {heard_s:.1f} s"
    )
    assert not starting
    assert how == {"UNAVAILABLE/STREAM_MOVED": WATCHERS}
    assert all([each.etag for each in watcher.heard] == ['"1"', '"2"'] for watcher in watchers)
    assert all(watcher.heard[-1].state == pb.Order.STATE_CANCELLED for watcher in watchers)
    assert (active, overflows) == (WATCHERS, 0)
    assert 0 < looks <= (passed + TOLD_S) / TICK_S + 1


_few = asyncio.Semaphore(16)


async def cancelled(stubs: list[OrderServiceStub], id: object, metadata: Metadata) -> None:
    async with _few:
        await stubs[0].CancelOrder(pb.CancelOrderRequest(name=f"orders/{id}"), metadata=metadata, timeout=DEADLINE_S)
