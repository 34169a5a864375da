"""One mesh for all tests of this folder; services of their own where a test ends some."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import grpc
import pytest

from tests.mesh.calls import Stream, watch
from tests.mesh.test_who_gets_in import bearer, keys_are_known
from tests.support.mesh import Mesh, running_mesh
from tests.support.otlp import Receiver, receiving

ALWAYS_THERE = ("product", "order", "inventory")


@pytest.fixture(scope="session")
def spans() -> Iterator[Receiver]:
    """What Envoy exports."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def bare_mesh(spans: Receiver) -> Iterator[Mesh]:
    """Without services."""
    with running_mesh(spans.endpoint) as mesh:
        yield mesh


@pytest.fixture(scope="session")
async def mesh(bare_mesh: Mesh) -> AsyncIterator[Mesh]:
    """With one instance of all services but notification, which is for tests that end instances."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bare_mesh.instances("echo", of=ALWAYS_THERE))
        yield bare_mesh


@pytest.fixture(scope="session")
async def edge(mesh: Mesh) -> AsyncIterator[grpc.aio.Channel]:
    """A caller outside."""
    async with grpc.aio.insecure_channel(mesh.envoy.edge) as channel:
        yield channel


@pytest.fixture(scope="session")
async def ann(mesh: Mesh, edge: grpc.aio.Channel) -> dict[str, str]:
    """What a customer sends with a call."""
    await keys_are_known(mesh, edge)
    return dict(bearer(mesh.issuer.token("ann", ["customer"])))


@pytest.fixture(scope="session", autouse=True)
async def quiet(edge: grpc.aio.Channel, ann: dict[str, str]) -> AsyncIterator[Stream]:
    """A stream that says nothing for longer than the 15 s that Envoy gives a call; begins before all other tests."""
    stream = watch(edge, ann, times="2", wait="15.5")
    await stream.read()
    yield stream
    stream.cancel()
