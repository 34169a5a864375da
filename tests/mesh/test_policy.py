"""A policy is put, and the calls that run are carried by it: nothing is restarted, no call and no stream is lost."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import pytest

from tests.mesh.calls import HealthWatch, Metadata, call
from tests.mesh.test_calls_survive import IDEMPOTENT, SERVICE, load, peer
from tests.support.mesh import Mesh
from tests.support.refused import outcome
from tests.support.waiting import eventually

__all__ = ["peer"]

OK = grpc.StatusCode.OK


async def who(channel: grpc.aio.Channel, times: int, metadata: Metadata = (), path: str = IDEMPOTENT) -> Counter[str]:
    """How often who answered."""
    calls = [call(channel, path, metadata=metadata, timeout=5) for _ in range(times)]
    answered: Counter[str] = Counter()
    for each in calls:
        code = (await outcome(each)).code
        name = dict(await each.trailing_metadata()).get("x-instance", "")
        answered[str(name) if code is OK else code.name] += 1
    return answered


async def codes(channel: grpc.aio.Channel, path: str, metadata: Metadata = (), times: int = 1) -> set[str]:
    return {(await outcome(call(channel, path, metadata=metadata, timeout=5))).code.name for _ in range(times)}


def shares(**by_version: int) -> dict[str, object]:
    return {"weights": [{"version": version.strip("v"), "weight": weight} for version, weight in by_version.items()]}


@pytest.fixture
async def two_versions(bare_mesh: Mesh) -> AsyncIterator[None]:
    async with bare_mesh.instances("a@1", "b@2", of=[SERVICE]):
        yield


@pytest.mark.usefixtures("two_versions")
async def test_versions_get_their_shares_and_a_rollback_costs_no_call(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    async with load(peer) as calls:
        watch = HealthWatch(peer, "")
        assert await watch.next() == 1
        async with bare_mesh.policy(SERVICE, canary=shares(v1=9, v2=1)):

            async def look() -> bool:
                answered = await who(peer, 200)
                return answered.total() == answered["a"] + answered["b"] and 5 <= answered["b"] <= 45

            await eventually(look, "a tenth of the calls goes to the canary")
            await calls.more()
        async with bare_mesh.policy(SERVICE, canary=shares(v1=1, v2=0)):

            async def rolled_back() -> bool:
                return await who(peer, 50) == {"a": 50}

            await eventually(rolled_back, "all calls go to version 1")
        await calls.more()
        assert not calls.failed
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.next(), 0.1)
        watch.end()


@pytest.mark.usefixtures("two_versions")
async def test_a_header_leads_to_a_version(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    match = {"version": "2", "header": {"name": "x-version", "value": "2"}}
    async with bare_mesh.policy(SERVICE, canary={**shares(v1=1), "matches": [match]}):

        async def look() -> bool:
            return await who(peer, 20) == {"a": 20}

        await eventually(look, "without the header calls go to version 1")
        assert await who(peer, 20, [("x-version", "2")]) == {"b": 20}
        assert await who(peer, 20, [("x-version", "22")]) == {"a": 20}
        # What this control plane's contract does not know is carried alike.
        assert await who(peer, 20, [("x-version", "2")], "/shop.notification.v1.NotificationService/New") == {"b": 20}


async def test_a_version_that_nobody_runs_loses_no_call(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    match = {"version": "4", "header": {"name": "x-version", "value": "4"}}
    async with bare_mesh.instances("a@1", "b@2", of=[SERVICE]), load(peer) as calls:
        async with bare_mesh.policy(SERVICE, canary={**shares(v1=1, v3=1), "matches": [match]}):

            async def look() -> bool:
                return await who(peer, 50) == {"a": 50}

            await eventually(look, "what falls to version 3 goes to the other with a weight")
            assert await who(peer, 20, [("x-version", "4")]) == {"a": 20}
        async with bare_mesh.policy(SERVICE, canary=shares(v3=1)):

            async def anybody() -> bool:
                answered = await who(peer, 50)
                return answered["a"] > 0 and answered["b"] > 0

            await eventually(anybody, "with no version that has a weight, calls go to every instance")
        await calls.more()
        assert not calls.failed


async def test_a_version_whose_only_instance_dies_loses_no_call(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    async with (
        bare_mesh.instances("a@1", "b@2", of=[SERVICE]) as (_, b),
        load(peer) as calls,
        bare_mesh.policy(SERVICE, canary=shares(v1=1, v2=1)),
    ):

        async def look() -> bool:
            return bare_mesh.envoy.number(f"cluster.{SERVICE}@2.upstream_rq_completed") > 0

        await eventually(look, "version 2 has calls")
        b.end()
        await calls.more(400)
        assert not calls.failed


@pytest.mark.usefixtures("two_versions")
async def test_faults_are_made_of_the_calls_they_are_meant_for(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    for_ann = {"header": {"name": "x-user", "value": "ann"}, "rpcs": ["ListNotifications"], "abort": "DATA_LOSS"}
    half = {"header": {"name": "x-user", "value": "carol"}, "percent": 50, "abort": "RESOURCE_EXHAUSTED"}
    async with bare_mesh.policy(SERVICE, faults=[for_ann, half, {"delay": "0.3s"}]):

        async def look() -> bool:
            return await codes(peer, IDEMPOTENT, [("x-user", "ann")]) == {"DATA_LOSS"}

        await eventually(look, "ann's calls are aborted")
        began = time.monotonic()
        assert await codes(peer, IDEMPOTENT, [("x-user", "bob")]) == {"OK"}
        assert time.monotonic() - began > 0.25
        assert await codes(peer, IDEMPOTENT, [("x-user", "carol")], times=40) == {"OK", "RESOURCE_EXHAUSTED"}

    async def healed() -> bool:
        return await codes(peer, IDEMPOTENT, [("x-user", "ann")]) == {"OK"}

    await eventually(healed, "nothing is aborted any more")


async def test_faults_are_made_at_every_door(bare_mesh: Mesh) -> None:
    async with (
        bare_mesh.instances("a", of=[SERVICE]),
        grpc.aio.insecure_channel(bare_mesh.envoy.edge) as edge,
        bare_mesh.policy("product", faults=[{"rpcs": ["GetProduct"], "abort": "DATA_LOSS"}]),
    ):

        async def look() -> bool:
            return await codes(edge, "/shop.product.v1.ProductService/GetProduct") == {"DATA_LOSS"}

        await eventually(look, "calls from outside are aborted")


@pytest.mark.usefixtures("two_versions")
async def test_one_rpc_has_limits_of_its_own(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    of_its_own = {"ListNotifications": {"per_try_timeout": "4s", "timeout": "2s"}}
    async with bare_mesh.policy(SERVICE, rpcs=of_its_own):

        async def look() -> bool:
            return await codes(peer, IDEMPOTENT, [("x-wait", "0.7")]) == {"OK"}

        await eventually(look, "a slow try of this rpc is waited for")
        # Not UNAVAILABLE, as Envoy's route.timeout would have it: the shop is not down, the time is over.
        assert await codes(peer, IDEMPOTENT, [("x-wait", "3")]) == {"DEADLINE_EXCEEDED"}


@pytest.mark.usefixtures("two_versions")
@pytest.mark.parametrize("balancing", ["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"])
async def test_instances_are_chosen_as_the_policy_says(bare_mesh: Mesh, peer: grpc.aio.Channel, balancing: str) -> None:
    before = bare_mesh.envoy.number("cluster_manager.cds.update_success")
    async with bare_mesh.policy(SERVICE, load_balancing=f"LOAD_BALANCING_{balancing}", retries={"edge": 0}):

        async def look() -> bool:
            # The last is what holds without a policy.
            return balancing == "LEAST_REQUEST" or (
                bare_mesh.envoy.number("cluster_manager.cds.update_success") > before
            )

        await eventually(look, "Envoy has taken the clusters")
        answered = Counter[str]()
        for _ in range(40):
            answered += await who(peer, 1)
        assert set(answered) == {"a", "b"}
        assert bare_mesh.envoy.number("cluster_manager.cds.update_rejected") == 0
        if balancing == "ROUND_ROBIN":
            # Each of Envoy's two threads takes turns by itself.
            assert abs(answered["a"] - answered["b"]) <= 2
