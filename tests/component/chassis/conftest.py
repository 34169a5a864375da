"""What tests of the chassis share: Echo on a server, by way of pytest-grpc's fixtures."""

from collections.abc import AsyncIterator

import grpc
import pytest

from services.chassis.server import Add
from tests.support.issuer import Issuer
from tests.support.ruled_echo import Echo, EchoStub, add_echo
from tests.support.serving import serving_at


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def grpc_servicer(echo: Echo) -> Echo:
    return echo


@pytest.fixture
def grpc_add_to_server() -> Add[Echo]:
    return add_echo


@pytest.fixture
def grpc_stub_cls() -> type[EchoStub]:
    return EchoStub


@pytest.fixture
def channel(grpc_channel: grpc.aio.Channel) -> grpc.aio.Channel:
    """Plain, as from somebody who is not of the mesh."""
    return grpc_channel


@pytest.fixture
def stub(grpc_stub: EchoStub) -> EchoStub:
    return grpc_stub


@pytest.fixture
async def address(echo: Echo, issuer: Issuer) -> AsyncIterator[str]:
    """For channels of one's own."""
    async with serving_at(add_echo, echo, issuer) as address:
        yield address
