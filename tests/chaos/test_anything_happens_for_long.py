"""Looks for an order of things, lost messages included, in which orders or stock go wrong: new ones in every run."""

import pytest
from hypothesis import settings

from tests.support.by_chance import run_in_memory, run_in_sql
from tests.support.postgres import Postgres


def test_over_memory() -> None:
    run_in_memory(settings(max_examples=2000, stateful_step_count=80))


@pytest.fixture
async def urls(postgres: Postgres) -> tuple[str, str]:
    return await postgres.make("services.order"), await postgres.make("services.inventory")


def test_over_postgresql(urls: tuple[str, str]) -> None:
    run_in_sql(*urls, settings(max_examples=300, stateful_step_count=80))
