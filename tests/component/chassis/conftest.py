"""What tests of the chassis share."""

from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from tests.support.issuer import Issuer, running_issuer
from tests.support.ruled_echo import Echo, EchoStub, serving


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    """One for all: a test that changes its keys or stops it runs its own."""
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def address(echo: Echo, issuer: Issuer) -> AsyncIterator[str]:
    async with serving(echo, issuer) as address:
        yield address


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """Plain, as from somebody who is not of the mesh."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> EchoStub:
    return EchoStub(channel)
