"""What retries add to the load of a service while instances of it fail."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from tests.mesh.calls import Metadata, call
from tests.mesh.test_calls_survive import IDEMPOTENT, NOT_IDEMPOTENT, SERVICE, peer
from tests.mesh.test_who_gets_in import bearer, keys_are_known
from tests.support.breaking import REFUSED_STREAM, breaking
from tests.support.mesh import Mesh
from tests.support.refused import outcome
from tests.support.waiting import eventually

__all__ = ["peer"]

FLOOR = 64
"""So many retries are under way whatever the budget: services/controlplane/resources/clusters."""
BUDGET = 0.2
EJECTED = f"cluster.{SERVICE}.outlier_detection.ejections_enforced_total"
NEVER_EJECTED = {"consecutive_failures": 1000}
UNLIMITED = {"user": {"calls": 0}}
# What is well shall not seem to fail because the machine stands still.
PATIENT = {"retries": {"per_try_timeout": "10s"}, "health_check": {"timeout": "10s"}}


@asynccontextmanager
async def caller(mesh: Mesh, way: str) -> AsyncIterator[tuple[grpc.aio.Channel, Metadata]]:
    """A channel to the listener and what its calls carry."""
    if way == "mesh":
        options = [("grpc.default_authority", SERVICE)]
        async with grpc.aio.insecure_channel(mesh.envoy.mesh, options=options) as channel:
            yield channel, []
    else:
        async with grpc.aio.insecure_channel(mesh.envoy.edge) as channel:
            await keys_are_known(mesh, channel)
            yield channel, bearer(mesh.issuer.token("ann", ["customer"]))


async def calls_by(callers: int, each: int, channel: grpc.aio.Channel, metadata: Metadata) -> Counter[str]:
    """How calls end, from so many callers with one call under way each."""
    ended = Counter[str]()

    async def one() -> None:
        for _ in range(each):
            ended[(await outcome(call(channel, IDEMPOTENT, metadata=metadata, timeout=20))).code.name] += 1

    await asyncio.gather(*(one() for _ in range(callers)))
    return ended


@pytest.mark.parametrize("way", ["mesh", "edge"])
async def test_with_half_of_the_instances_failing_the_load_stays_within_the_budget(mesh: Mesh, way: str) -> None:
    async with (
        mesh.policy(SERVICE, **PATIENT, rate_limit=UNLIMITED),
        mesh.instances("a", of=[SERVICE]),
        breaking(mesh.etcd.endpoint, SERVICE, "broken") as broken,
        caller(mesh, way) as (channel, metadata),
    ):
        await mesh.healthy(SERVICE, 2)
        ejected = mesh.envoy.number(EJECTED)
        ended = await calls_by(8, 250, channel, [*metadata, ("x-wait", "0.01")])

        assert ended == {"OK": 2000}
        assert mesh.envoy.number(EJECTED) > ejected
        # Each call that it broke off was carried out by the other one.
        assert 0 < broken.calls <= BUDGET * 2000


async def test_an_instance_that_breaks_off_one_call_after_the_other_is_ejected(
    bare_mesh: Mesh, peer: grpc.aio.Channel
) -> None:
    async with breaking(bare_mesh.etcd.endpoint, SERVICE, "broken") as broken:
        await bare_mesh.healthy(SERVICE, 1)

        async def look() -> bool:
            await outcome(call(peer, NOT_IDEMPOTENT, timeout=5))
            return ["failed_outlier_check"] in bare_mesh.envoy.clusters()[SERVICE].values()

        await eventually(look, "it is ejected")
        tried = broken.calls
        assert (await outcome(call(peer, NOT_IDEMPOTENT, timeout=5))).code is grpc.StatusCode.UNAVAILABLE
        assert broken.calls == tried
        await bare_mesh.healthy(SERVICE, 1)


async def test_with_all_instances_failing_most_calls_reach_none(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    async with AsyncExitStack() as stack:
        instances = [breaking(bare_mesh.etcd.endpoint, SERVICE, name) for name in ("x", "y")]
        both = [await stack.enter_async_context(each) for each in instances]
        await bare_mesh.healthy(SERVICE, 2)
        ended = await calls_by(200, 10, peer, [])

    assert ended == {"UNAVAILABLE": 2000}
    assert sum(each.calls for each in both) < 1000


@pytest.mark.parametrize(("percent", "within"), [(20, True), (100, False)])
async def test_retries_under_way_are_a_share_of_the_calls_under_way(
    bare_mesh: Mesh, peer: grpc.aio.Channel, percent: int, within: bool
) -> None:
    taken = bare_mesh.envoy.number("cluster_manager.cds.update_success")
    async with (
        bare_mesh.policy(SERVICE, retries={"budget_percent": percent}, ejection=NEVER_EJECTED),
        breaking(bare_mesh.etcd.endpoint, SERVICE, "hangs", after_s=60) as hanging,
    ):
        await bare_mesh.healthy(SERVICE, 1)

        async def look() -> bool:
            return bare_mesh.envoy.number("cluster_manager.cds.update_success") > taken

        await eventually(look, "Envoy has the policy")
        ended = await calls_by(400, 1, peer, [])

        assert ended == {"UNAVAILABLE": 400}
        # Of two retries of each call.
        assert (hanging.calls <= 400 * (1 + BUDGET) + FLOOR) is within, hanging.calls


async def test_what_surely_did_not_run_is_tried_again_whatever_it_is(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    async with (
        bare_mesh.policy(SERVICE, ejection=NEVER_EJECTED),
        bare_mesh.instances("a", of=[SERVICE]),
        breaking(bare_mesh.etcd.endpoint, SERVICE, "refuses", REFUSED_STREAM) as refusing,
    ):
        await bare_mesh.healthy(SERVICE, 2)
        ids = [f"refused-{number}" for number in range(40)]
        calls = [call(peer, NOT_IDEMPOTENT, metadata=[("x-call", id)], timeout=20) for id in ids]

        assert {(await outcome(one)).code.name for one in calls} == {"OK"}
        assert refusing.calls > 0
        carried_out = bare_mesh.carried_out()
        assert {carried_out[id] for id in ids} == {1}


@pytest.mark.parametrize("way", ["mesh", "edge"])
async def test_honest_refusals_eject_nobody_at_either_listener(mesh: Mesh, way: str) -> None:
    async with (
        mesh.policy(SERVICE, rate_limit=UNLIMITED),
        mesh.instances("a", of=[SERVICE]),
        caller(mesh, way) as (channel, metadata),
    ):
        counts = EJECTED, f"cluster.{SERVICE}.upstream_rq_retry"
        before = [mesh.envoy.number(count) for count in counts]
        streamed: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(IDEMPOTENT)

        for code in ("UNAVAILABLE", "INTERNAL", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"):
            sent = (("x-abort", code), *metadata)
            in_turn = [(await outcome(call(channel, IDEMPOTENT, metadata=sent))).code for _ in range(15)]
            together = await asyncio.gather(*(outcome(call(channel, IDEMPOTENT, metadata=sent)) for _ in range(15)))
            streams = [await streamed(b"", metadata=sent).code() for _ in range(15)]

            assert {*in_turn, *(each.code for each in together), *streams} == {grpc.StatusCode[code]}
        assert (await outcome(call(channel, IDEMPOTENT, metadata=metadata))).code is grpc.StatusCode.OK
        assert [mesh.envoy.number(count) for count in counts] == before


@pytest.mark.parametrize(("way", "of_all", "of_one"), [("mesh", 4, 1), ("edge", 3, 2)])
async def test_how_often_a_call_is_tried_again_is_said_for_all_rpcs_and_for_one(
    mesh: Mesh, way: str, of_all: int, of_one: int
) -> None:
    retries = {"retries": {"edge": 2, "mesh": 3}, "ejection": NEVER_EJECTED}
    async with breaking(mesh.etcd.endpoint, SERVICE, "broken") as broken, caller(mesh, way) as (channel, metadata):
        await mesh.healthy(SERVICE, 1)

        async def tries(expected: int) -> None:
            async def look() -> bool:
                before = broken.calls
                await outcome(call(channel, IDEMPOTENT, metadata=metadata, timeout=20))
                return broken.calls - before == expected

            await eventually(look, f"a call is tried {expected} times")

        async with mesh.policy(SERVICE, **retries):
            await tries(of_all)
        async with mesh.policy(SERVICE, **retries, rpcs={"ListNotifications": {"edge": 1, "mesh": 0}}):
            await tries(of_one)
