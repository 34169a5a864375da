"""What was learned of Envoy the hard way, on a real one: each of these failed once."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.controlplane.model import Endpoint, Model, State
from tests.support.told import NOTHING, SEEDS, Told, told_envoy
from tests.support.waiting import eventually

GET = "/shop.product.v1.ProductService/GetProduct"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Instance:
    """Answers every rpc with nothing, when it may."""

    checked: health.aio.HealthServicer
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    address: str = ""
    calls: int = 0

    def service(self, _details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        async def answer(_request: bytes, _context: object) -> bytes:
            self.calls += 1
            await self.may_answer.wait()
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def running() -> AsyncIterator[Instance]:
    instance, server = Instance(health.aio.HealthServicer()), grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(instance.checked, server)
    await instance.checked.set("", SERVING)
    instance.may_answer.set()
    server.add_generic_rpc_handlers([instance])  # type: ignore[list-item]  # has the one method
    instance.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield instance
    await server.stop(0)


@pytest.fixture(scope="module")
async def told(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Told]:
    async with told_envoy(tmp_path_factory.mktemp("envoy")) as told:
        yield told


@pytest.fixture
async def peer(told: Told) -> AsyncIterator[grpc.aio.Channel]:
    """One connection, from before whatever a test changes."""
    async with grpc.aio.insecure_channel(told.envoy.mesh, options=[("grpc.default_authority", "product")]) as channel:
        yield channel


@pytest.fixture
async def three() -> AsyncIterator[list[Instance]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running()) for _ in range(3)]


async def tell(told: Told, endpoints: Mapping[str, Endpoint], document: bytes = b"") -> None:
    """Returns when Envoy goes by it."""
    policies = {**SEEDS.policies, "product": SEEDS.policy("product", document)}
    snapshot = told.resources.of(Model().see(replace(NOTHING, endpoints={"product": endpoints}, policies=policies), 0))
    told.snapshots.put(snapshot)
    await told.has(snapshot)


async def well(told: Told, count: int) -> None:
    """Returns when Envoy sends calls to so many instances."""

    async def look() -> bool:
        return [*(await asyncio.to_thread(told.envoy.clusters))["product"].values()].count([]) == count

    await eventually(look, f"{count} instances are well")


async def served(peer: grpc.aio.Channel, by: list[Instance], calls: int = 60) -> list[int]:
    """How many of so many calls each instance answered; none fails."""
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = peer.unary_unary(GET)
    before = [instance.calls for instance in by]
    for _ in range(calls):
        await method(b"", timeout=5)
    found = [instance.calls - old for instance, old in zip(by, before, strict=True)]
    assert sum(found) == calls
    return found


def ready(*instances: Instance) -> dict[str, Endpoint]:
    return {str(number): Endpoint(instance.address) for number, instance in enumerate(instances)}


async def test_instances_that_drain_get_no_call_though_they_are_the_most(
    told: Told, peer: grpc.aio.Channel, three: list[Instance]
) -> None:
    await tell(told, ready(*three))
    await well(told, 3)

    draining = {name: replace(at, state=State.DRAINING) for name, at in ready(*three).items() if name != "0"}
    await tell(told, ready(*three) | draining)
    await well(told, 1)

    assert await served(peer, three) == [60, 0, 0]


async def test_instances_that_fail_their_checks_get_no_call_though_they_are_the_most(
    told: Told, peer: grpc.aio.Channel, three: list[Instance]
) -> None:
    await tell(told, ready(*three))
    await well(told, 3)

    for instance in three[1:]:
        await instance.checked.set("", NOT_SERVING)
    # Nobody has called yet: by default Envoy would look once a minute.
    async with asyncio.timeout(20):
        await well(told, 1)

    assert await served(peer, three) == [60, 0, 0]


async def test_an_instance_that_left_gets_no_call_though_its_checks_are_good(
    told: Told, peer: grpc.aio.Channel, three: list[Instance]
) -> None:
    await tell(told, ready(*three))
    await well(told, 3)

    await tell(told, ready(three[0]))

    assert await served(peer, three) == [60, 0, 0]


async def test_a_new_policy_holds_for_connections_that_are_open(
    told: Told, peer: grpc.aio.Channel, three: list[Instance]
) -> None:
    await tell(told, ready(*three))
    await well(told, 3)
    await served(peer, three)
    before = await asyncio.to_thread(told.envoy.number, "listener_manager.listener_(modified|added)")

    await tell(told, ready(*three), b'{"faults": [{"abort": "ABORTED"}]}')

    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = peer.unary_unary(GET)

    async def look() -> bool:
        return await method(b"").code() is grpc.StatusCode.ABORTED

    await eventually(look, "the fault is made")
    assert await asyncio.to_thread(told.envoy.number, "listener_manager.listener_(modified|added)") == before


async def test_a_changed_cluster_serves_on_and_is_in_use_at_once(
    told: Told, peer: grpc.aio.Channel, three: list[Instance]
) -> None:
    await tell(told, ready(*three))
    await well(told, 3)

    # Without its assignment behind it, Envoy would wait 15 s for one.
    async with asyncio.timeout(10):
        await tell(told, ready(*three), b'{"circuit_breaker": {"max_requests": 77}}')

    await served(peer, three)
    await well(told, 3)


async def test_a_full_service_says_that_it_is_full(told: Told, peer: grpc.aio.Channel, three: list[Instance]) -> None:
    instance = three[0]
    await tell(told, ready(instance), b'{"circuit_breaker": {"max_requests": 1}}')
    await well(told, 1)
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = peer.unary_unary(GET)
    instance.may_answer.clear()
    under_way = method(b"")

    async def begun() -> bool:
        return instance.calls == 1

    await eventually(begun, "a call is under way")
    refused = method(b"")

    assert await refused.code() is grpc.StatusCode.UNAVAILABLE
    assert ("x-envoy-overloaded", "true") in tuple(await refused.trailing_metadata() or ())
    instance.may_answer.set()
    assert await under_way == b""
