"""Orders and stock stay right in whatever order things happen, and whatever messages are lost, late or doubled.

The same examples in every run; `make chaos` looks for new ones.
"""

import pytest
from hypothesis import settings

from tests.support.by_chance import run_in_memory, run_in_sql
from tests.support.postgres import Postgres


def test_over_memory() -> None:
    run_in_memory(settings(max_examples=60, stateful_step_count=50, derandomize=True))


@pytest.fixture
async def urls(postgres: Postgres) -> tuple[str, str]:
    return await postgres.make("services.order"), await postgres.make("services.inventory")


def test_over_postgresql(urls: tuple[str, str]) -> None:
    run_in_sql(*urls, settings(max_examples=12, stateful_step_count=40, derandomize=True))
