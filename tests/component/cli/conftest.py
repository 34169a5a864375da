"""A whole shop without its doors, for commands that look behind them."""

from collections.abc import AsyncIterator

import pytest

from tests.support.backstage import Backstage, backstage
from tests.support.nats import running_nats
from tests.support.postgres import Postgres


@pytest.fixture(scope="module")
async def shop_of_all(postgres: Postgres) -> AsyncIterator[Backstage]:
    """With a NATS of one's own: the stream has the same name everywhere."""
    with running_nats() as server:
        async with backstage(postgres, server) as shop:
            yield shop


@pytest.fixture
async def shop(shop_of_all: Backstage) -> Backstage:
    """Nothing is sold yet, and stock is there."""
    await shop_of_all.clear()
    await shop_of_all.stocked(mug=1000, teapot=1000)
    return shop_of_all
