"""A database with the product service's tables."""

from collections.abc import AsyncIterator

import pytest

from services.chassis.database import Database
from tests.support.postgres import Postgres


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[Database]:
    async with postgres.database("services.product") as database:
        yield database
