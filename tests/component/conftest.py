"""What tests of one service share: an issuer of tokens, and pytest-grpc's fixtures for grpc.aio."""

from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import pytest

from services.chassis.server import Add
from tests.support.issuer import Issuer, running_issuer
from tests.support.serving import serving


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    """One for all: a test that changes its keys or lets it be away runs its own."""
    with running_issuer() as issuer:
        yield issuer


# pytest-grpc starts servers of threads. A test module gives grpc_servicer, grpc_add_to_server and grpc_stub_cls, as
# pytest-grpc has it, and gets a channel and a stub of grpc.aio, with the interceptors of a real process around.


@pytest.fixture
async def grpc_channel[S](
    grpc_add_to_server: Add[S], grpc_servicer: S, issuer: Issuer
) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(grpc_add_to_server, grpc_servicer, issuer) as channel:
        yield channel


@pytest.fixture
def grpc_stub[T](grpc_stub_cls: Callable[[grpc.aio.Channel], T], grpc_channel: grpc.aio.Channel) -> T:
    return grpc_stub_cls(grpc_channel)
