"""What tests of the order service share."""

from collections.abc import AsyncIterator

import pytest

from services.chassis.database import Database
from tests.support.postgres import Postgres


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[Database]:
    """Empty, with the tables of the order service."""
    async with postgres.emptied("services.order") as database:
        yield database
