"""Servers that tests start end with the tests, however these end."""

import subprocess
import sys

import asyncpg
import psutil
import pytest

from tests.support.postgres import Postgres
from tests.support.waiting import DEADLINE_S

TESTS = """
from tests.support.etcd import running_etcd
with running_etcd() as server:
    print(server.pid, flush=True)
    input()
"""


def test_a_server_ends_when_the_tests_are_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TESTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout
        server = psutil.Process(int(tests.stdout.readline()))
        tests.kill()

    _, left = psutil.wait_procs([server], timeout=DEADLINE_S)

    assert left == []


async def test_a_database_that_cannot_be_emptied_is_handed_on_to_nobody(postgres: Postgres) -> None:
    async with postgres.emptied("services.order") as database:
        await database.execute("create table seeds.of_no_table ()")

    with pytest.raises(asyncpg.UndefinedTableError):
        async with postgres.emptied("services.order"):
            pass
    async with postgres.emptied("services.order") as database:
        assert await database.fetchval("select count(*) from orders") == 0
