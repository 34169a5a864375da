"""A steady load between services, and what happens to it when instances and the control plane go."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from services.chassis.etcd import Etcd
from tests.mesh.calls import call
from tests.support.mesh import Mesh
from tests.support.refused import outcome
from tests.support.waiting import eventually

SERVICE = "notification"
IDEMPOTENT = "/shop.notification.v1.NotificationService/ListNotifications"
NOT_IDEMPOTENT = "/shop.notification.v1.NotificationService/NewRpc"
WORKERS = 8
OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="session")
async def peer(bare_mesh: Mesh) -> AsyncIterator[grpc.aio.Channel]:
    """Another service's way to this one: Envoy's mesh listener, the name as authority."""
    options = [("grpc.default_authority", SERVICE)]
    async with grpc.aio.insecure_channel(bare_mesh.envoy.mesh, options=options) as channel:
        yield channel


@pytest.fixture
async def etcd(bare_mesh: Mesh) -> AsyncIterator[Etcd]:
    connection = Etcd(bare_mesh.etcd.endpoint)
    yield connection
    await connection.close()


@dataclass(slots=True)
class Load:
    """Calls that run all the time."""

    answered: Counter[str] = field(default_factory=Counter[str])
    """By instance."""
    failed: Counter[grpc.StatusCode] = field(default_factory=Counter[grpc.StatusCode])

    async def more(self, calls: int = 200) -> None:
        """Returns when so many further calls were answered."""
        enough = self.answered.total() + calls

        async def look() -> bool:
            return self.answered.total() >= enough

        await eventually(look, f"{calls} more answers")


@asynccontextmanager
async def load(peer: grpc.aio.Channel, timeout: float = 5) -> AsyncIterator[Load]:
    """Eight callers, each with one call under way, with deadlines as services have them."""
    counted = Load()

    async def caller() -> None:
        while True:
            asked = call(peer, IDEMPOTENT, metadata=[("x-wait", "0.01")], timeout=timeout)
            try:
                await asked
            except grpc.aio.AioRpcError as error:
                counted.failed[error.code()] += 1
            else:
                counted.answered[str(dict(await asked.trailing_metadata())["x-instance"])] += 1

    callers = [asyncio.create_task(caller()) for _ in range(WORKERS)]
    try:
        yield counted
        assert not any(caller.done() for caller in callers)
    finally:
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


async def test_two_instances_share_the_load(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    async with bare_mesh.instances("a", "b", of=[SERVICE]), load(peer) as calls:
        await calls.more(400)

        assert calls.answered["a"] > 100
        assert calls.answered["b"] > 100
        assert not calls.failed


async def test_an_instance_that_is_told_to_stop_costs_no_call(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    async with bare_mesh.instances("a", "b", of=[SERVICE]) as (a, b), load(peer) as calls:
        await calls.more()

        a.process.terminate()
        await asyncio.to_thread(a.process.wait, 30)
        served = calls.answered["a"]
        await calls.more()

        assert not calls.failed
        assert calls.answered["a"] == served
        assert b.process.poll() is None


async def test_an_instance_that_crashes_is_left_out_at_once(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    async with bare_mesh.instances("a", "b", of=[SERVICE]) as (a, _), load(peer) as calls:
        await calls.more()

        a.end()
        await calls.more()
        await bare_mesh.healthy(SERVICE, 1)

        assert not calls.failed


async def test_an_instance_that_hangs_is_left_out(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    async with bare_mesh.instances("a", "b", of=[SERVICE]) as (a, _), load(peer) as calls:
        await calls.more()

        a.process.send_signal(signal.SIGSTOP)
        await bare_mesh.healthy(SERVICE, 1)
        await calls.more()

        assert not calls.failed


async def test_traffic_goes_on_without_control_plane_and_etcd(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    async with bare_mesh.instances("a", "b", of=[SERVICE]), load(peer) as calls:
        bare_mesh.controlplane.kill()
        bare_mesh.etcd.kill()
        try:
            await calls.more()
        finally:
            # Etcd is still away: the control plane goes on with the last good model.
            bare_mesh.controlplane.start()
        try:
            await connected(bare_mesh)
            await calls.more()
        finally:
            bare_mesh.etcd.start()
        await calls.more()
        assert not calls.failed


async def test_a_wiped_etcd_takes_no_instance_away(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    async with bare_mesh.instances("a", "b", of=[SERVICE]), load(peer) as calls:
        bare_mesh.etcd.wipe()
        await calls.more(400)

        assert not calls.failed
        await bare_mesh.healthy(SERVICE, 2)


async def test_honest_refusals_eject_nobody_and_are_not_tried_again(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    async with bare_mesh.instances("a", of=[SERVICE]):
        for code in (UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED):
            retried = bare_mesh.envoy.number(f"cluster.{SERVICE}.upstream_rq_retry")
            for _ in range(10):
                refused = call(peer, IDEMPOTENT, metadata=[("x-abort", code.name)])
                assert (await outcome(refused)).code is code
            assert (await outcome(call(peer, IDEMPOTENT))).code is OK
            assert bare_mesh.envoy.number(f"cluster.{SERVICE}.upstream_rq_retry") == retried


async def test_a_slow_try_is_given_up_only_if_it_may_run_twice(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    async with bare_mesh.instances("a", "b", of=[SERVICE]):
        slow = [("x-wait", "0.8")]

        tried_again = await outcome(call(peer, IDEMPOTENT, metadata=slow, timeout=5))
        waited_for = await outcome(call(peer, NOT_IDEMPOTENT, metadata=slow))

        # Three tries of 0.5 s each, all too short.
        assert tried_again.code is UNAVAILABLE
        assert waited_for.code is OK


async def test_a_policy_is_live_without_a_gap(bare_mesh: Mesh, peer: grpc.aio.Channel, etcd: Etcd) -> None:
    key, slow = f"/shop/policy/{SERVICE}", [("x-wait", "0.8")]
    async with bare_mesh.instances("a", of=[SERVICE]), load(peer) as calls:
        # The cluster changes as well: without its assignment sent again Envoy would wait for 15 s.
        await etcd.put(key, b'{"retries": {"per_try_timeout": "2s"}, "ejection": {"consecutive_failures": 50}}')

        async def look() -> bool:
            return (await outcome(call(peer, IDEMPOTENT, metadata=slow, timeout=5))).code is OK

        await eventually(look, "slow calls are waited for", deadline_s=10)
        await calls.more()
        assert not calls.failed
        await etcd.delete(key)


async def test_a_full_service_refuses_at_once(bare_mesh: Mesh, peer: grpc.aio.Channel, etcd: Etcd) -> None:
    key = f"/shop/policy/{SERVICE}"
    async with bare_mesh.instances("a", of=[SERVICE]):
        await etcd.put(key, b'{"circuit_breaker": {"max_requests": 2}}')

        async def look() -> bool:
            together = [call(peer, IDEMPOTENT, metadata=[("x-wait", "0.2")], timeout=5) for _ in range(6)]
            codes = Counter([(await outcome(one)).code for one in together])
            return codes == {OK: 2, UNAVAILABLE: 4}

        await eventually(look, "two calls of six get through")
        await etcd.delete(key)


async def test_the_log_tells_when_a_breaker_opens_and_closes(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    log = bare_mesh.controlplane.folder / "log"
    begin = len(log.read_text())

    async def told(event: str) -> bool:
        # Until it is told there is always more than one call under way.
        await asyncio.gather(*(outcome(call(peer, IDEMPOTENT, metadata=slow, timeout=5)) for _ in range(3)))
        return any(event in line and SERVICE in line for line in log.read_text()[begin:].splitlines())

    async with bare_mesh.instances("a", of=[SERVICE]), bare_mesh.policy(SERVICE, circuit_breaker={"max_requests": 1}):
        slow = [("x-wait", "0.3")]
        await eventually(lambda: told("breaker opened"), "it is told that the breaker opened")
    async with bare_mesh.instances("a", of=[SERVICE]):
        slow = []
        await eventually(lambda: told("breaker closed"), "it is told that the breaker closed")


@pytest.mark.parametrize(("path", "tried_again"), [(IDEMPOTENT, True), (NOT_IDEMPOTENT, False)])
async def test_what_an_instance_had_begun_is_tried_again_only_if_that_does_no_harm(
    bare_mesh: Mesh, peer: grpc.aio.Channel, path: str, tried_again: bool
) -> None:
    ids = [f"{path}-{number}" for number in range(20)]
    async with bare_mesh.instances("a", "b", of=[SERVICE]) as (a, _):
        slow = [call(peer, path, metadata=[("x-wait", "0.4"), ("x-call", id)], timeout=30) for id in ids]

        async def begun() -> bool:
            return set(ids) <= bare_mesh.carried_out().keys()

        await eventually(begun, "every call has been begun")
        a.end()
        codes = Counter([(await outcome(one)).code for one in slow])

        carried_out = Counter({id: bare_mesh.carried_out()[id] for id in ids})
    if tried_again:
        assert codes == {OK: 20}
        assert carried_out.total() > 20
    else:
        assert codes[UNAVAILABLE] > 0
        assert codes[OK] > 0
        assert set(carried_out.values()) == {1}


async def test_with_no_instance_left_the_answer_does_not_wait_for_a_deadline(
    bare_mesh: Mesh, peer: grpc.aio.Channel
) -> None:
    async with bare_mesh.instances("a", of=[SERVICE]) as (a,):
        a.process.send_signal(signal.SIGSTOP)
        await bare_mesh.healthy(SERVICE, 0)
        took = []
        for _ in range(20):
            began = time.monotonic()
            assert (await outcome(call(peer, IDEMPOTENT, timeout=5))).code is UNAVAILABLE
            took.append(time.monotonic() - began)

    # The best of them: the machine may be busy.
    assert min(took) < 0.05


async def connected(mesh: Mesh) -> None:
    """Returns when Envoy listens to a control plane."""

    async def look() -> bool:
        return mesh.envoy.number("control_plane.connected_state") == 1

    await eventually(look, "Envoy has found the control plane")
