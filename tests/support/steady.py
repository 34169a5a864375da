"""A steady load on both listeners of Envoy, and what became of its calls.

Calls begin at a fixed rate, whatever became of those before: a caller that waits for one answer before it asks again
would hide an outage. A quarter each is idempotent or not, at the edge or between services, over all services. Each
carries an id, which the instance that carries it out notes down (tests/support/echo.py): so it is known what was done
twice, and that nothing was answered without being done.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from uuid import uuid4

import grpc

from tests.mesh.calls import Metadata, call
from tests.support.waiting import DEADLINE_S, eventually

PER_SECOND = 100
TAKES_S = 0.1
"""How long an instance has a call: ten are under way at any moment."""
DEADLINE_OF_A_CALL_S = 5.0
"""The default deadline of all services."""
SLOW_S = 1.0
STILL_S = 0.25
"""When the load itself is so late, nothing of the machine runs in time: for Envoy, which waits 0.5 s, all hang."""
WELL_AGAIN_S = 2.0
"""By then an instance that seemed to hang is back."""

EDGE, MESH = "edge", "mesh"
OPTIONS = (
    # As the channels of services have it: gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class Rpc:
    """What is called, and how."""

    listener: str
    service: str
    path: str
    idempotent: bool


def _rpc(listener: str, path: str, *, idempotent: bool) -> Rpc:
    service = path.partition(".")[0]
    return Rpc(
        listener, service, f"/shop.{service}.v1.{service.capitalize()}Service/{path.partition('.')[2]}", idempotent
    )


# In turn. Few rpcs of the contract are not idempotent; one that the control plane does not know counts as such.
_RPCS = (
    _rpc(MESH, "product.GetProduct", idempotent=True),
    _rpc(MESH, "product.UpdateProduct", idempotent=False),
    _rpc(EDGE, "product.GetProduct", idempotent=True),
    _rpc(EDGE, "product.UpdateProduct", idempotent=False),
    _rpc(MESH, "inventory.ReserveStock", idempotent=True),
    _rpc(MESH, "inventory.NewRpc", idempotent=False),
    _rpc(EDGE, "inventory.GetStock", idempotent=True),
    _rpc(EDGE, "product.ArchiveProduct", idempotent=False),
    _rpc(MESH, "order.GetOrder", idempotent=True),
    _rpc(MESH, "order.NewRpc", idempotent=False),
    _rpc(EDGE, "order.PlaceOrder", idempotent=True),
    _rpc(EDGE, "product.UnarchiveProduct", idempotent=False),
    _rpc(MESH, "notification.ListNotifications", idempotent=True),
    _rpc(MESH, "notification.NewRpc", idempotent=False),
    _rpc(EDGE, "notification.ListNotifications", idempotent=True),
    _rpc(EDGE, "product.UpdateProduct", idempotent=False),
)
SERVICES = tuple(sorted({rpc.service for rpc in _RPCS}))


@dataclass(slots=True)
class Call:
    """One call; times are of the monotonic clock."""

    id: str
    rpc: Rpc
    began: float
    ended: float | None = None
    error: grpc.aio.AioRpcError | None = None
    by: str = ""
    """The instance that answered."""

    def __str__(self) -> str:
        error = self.error and f"{self.error.code().name} {self.error.details()}"
        lasted = f"{self.ended - self.began:.2f} s" if self.ended else "under way"
        return f"{self.rpc.listener} {self.rpc.path} begun at {self.began:.2f}, {lasted}: {error}"


@dataclass(slots=True)
class Load:
    """All calls since it began."""

    calls: list[Call] = field(default_factory=list[Call])
    under_way: dict[str, Call] = field(default_factory=dict[str, Call])
    still: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """When the machine stood still: from when until when, by the monotonic clock."""

    async def seconds(self, count: float) -> None:
        """Returns when so many seconds' calls have begun."""
        enough = len(self.calls) + count * PER_SECOND

        async def look() -> bool:
            return len(self.calls) >= enough

        await eventually(look, f"{count:g} s more of calls", DEADLINE_S + 2 * count)

    def failed(self, *, idempotent: bool) -> list[Call]:
        return [one for one in self.calls if one.error and one.rpc.idempotent is idempotent]

    def stood_still(self, one: Call) -> bool:
        """Whether the machine did so while this call was under way, or shortly before."""
        ended = one.ended or time.monotonic()
        return any(since < ended and one.began < until + WELL_AGAIN_S for since, until in self.still)

    @property
    def slow(self) -> list[Call]:
        """Answered or failed, but later than a person likes to wait."""
        return [one for one in self.calls if one.ended and one.ended - one.began > SLOW_S]


def doubled(load: Load, executed: Path) -> tuple[list[Call], list[Call]]:
    """The calls that are not idempotent and were carried out twice; and the answered ones that nobody carried out."""
    times = Counter(executed.read_text().split())
    twice = [one for one in load.calls if not one.rpc.idempotent and times[one.id] > 1]
    never = [one for one in load.calls if one.ended and not one.error and not times[one.id]]
    return twice, never


@asynccontextmanager
async def steady_load(edge: str, mesh: str, edge_metadata: Metadata) -> AsyncIterator[Load]:
    """Calls, as long as the body runs; then waits for those under way. `edge_metadata`: a token that may call all."""
    load = Load()
    channels = {(MESH, service): _channel(mesh, [("grpc.default_authority", service)]) for service in SERVICES}
    channels |= {(EDGE, service): _channel(edge) for service in SERVICES}
    tasks = set[asyncio.Task[None]]()

    async def one(rpc: Rpc) -> None:
        made = Call(uuid4().hex, rpc, time.monotonic())
        load.calls.append(made)
        load.under_way[made.id] = made
        metadata = [("x-wait", str(TAKES_S)), ("x-call", made.id), *(edge_metadata if rpc.listener == EDGE else ())]
        asked = call(channels[rpc.listener, rpc.service], rpc.path, metadata=metadata, timeout=DEADLINE_OF_A_CALL_S)
        try:
            await asked
            made.by = str(dict(await asked.trailing_metadata())["x-instance"])
        except grpc.aio.AioRpcError as error:
            made.error = error
        made.ended = time.monotonic()
        del load.under_way[made.id]

    async def begin() -> None:
        due = time.monotonic()
        for rpc in cycle(_RPCS):
            if (now := time.monotonic()) - due > STILL_S:
                load.still.append((due, now))
            task = asyncio.create_task(one(rpc))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += 1 / PER_SECOND
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    beginning = asyncio.create_task(begin())
    try:
        yield load
        assert not beginning.done()
    finally:
        beginning.cancel()
        await asyncio.gather(beginning, *tasks, return_exceptions=True)
        for channel in channels.values():
            await channel.close()


def _channel(address: str, options: Sequence[tuple[str, str]] = ()) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=[*OPTIONS, *options])
