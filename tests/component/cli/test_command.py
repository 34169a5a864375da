"""The command itself, with the two stores that start at once."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from services.cli.local.postgres import Postgres
from services.cli.local.state import StateFolder
from tests.support.ports import free_port, free_ports
from tests.support.shop import Shop, started_shop, stop
from tests.support.waiting import DEADLINE_S, eventually

STORES = ("--only", "postgres", "--only", "nats")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder; what root's PostgreSQL keeps elsewhere goes with it."""
    yield tmp_path / "state"
    said(tmp_path / "state", "down", "--wipe")


def said(state: Path, *words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", *words],
        env={**os.environ, "SHOPMESH_STATE": str(state), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    return done.stdout


async def execute(shop: Shop, service: str, sql: str, user: str | None = None) -> str:
    port = shop.ports["postgres"]
    connection = await asyncpg.connect(f"postgresql://{user or service}@127.0.0.1:{port}/{service}")
    try:
        return str(await connection.fetchval(sql))
    finally:
        await connection.close()


async def test_each_service_owns_a_database_and_audit_sees_only_what_it_is_shown(state: Path) -> None:
    with started_shop(state, *STORES) as shop:
        await execute(shop, "order", "create table orders as select 7 as id")
        await execute(shop, "order", "create view audit_orders as select id from orders")
        await execute(shop, "order", "grant select on audit_orders to audit")

        assert await execute(shop, "order", "select id from audit_orders", "audit") == "7"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(shop, "order", "select id from orders", "audit")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(shop, "inventory", "select 1", "order")


async def test_after_sigkill_the_next_start_finds_its_data(state: Path) -> None:
    with started_shop(state, *STORES) as shop:
        await execute(shop, "order", "create table kept as select 7 as id")
        shop.supervisor.kill()

    with started_shop(state, *STORES) as shop:
        assert await execute(shop, "order", "select id from kept") == "7"
        assert stop(shop) < 10
    assert {row["state"] for row in json.loads(said(state, "status", "--json"))} == {"stopped"}


def test_down_stops_a_detached_shop(state: Path) -> None:
    up = said(state, "up", "--detach", "--ports-from", str(free_ports(16)), *STORES)
    assert "shopmesh is ready" in up
    rows = json.loads(said(state, "status", "--json"))
    assert [(row["name"], row["state"], row["pss_bytes"] > 0) for row in rows] == [
        ("nats", "ready", True),
        ("postgres", "ready", True),
    ]

    assert "stopped what ran in" in said(state, "down")
    assert "nothing runs in" in said(state, "down")


def test_a_second_shop_in_the_same_folder_is_refused(state: Path) -> None:
    with started_shop(state, *STORES):
        assert "already running" in said(state, "up", *STORES)


def test_a_port_that_is_taken_is_told_with_its_owner(state: Path) -> None:
    with socket.socket() as owner:
        port = free_port()
        owner.bind(("127.0.0.1", port))
        owner.listen()

        told = said(state, "up", *STORES, SHOPMESH_PORT_NATS=str(port), SHOPMESH_PORT_POSTGRES=str(free_port()))

    assert f"port {port} (nats) is used by" in told
    assert f"(process {os.getpid()})" in told
    assert "SHOPMESH_PORT_NATS" in told


def test_data_of_another_postgresql_are_left_alone(state: Path) -> None:
    with started_shop(state, *STORES) as shop:
        stop(shop)
    (Postgres(state, as_root=os.geteuid() == 0).data / "PG_VERSION").write_text("17\n")

    told = said(state, "up", "--ports-from", str(free_ports(16)), *STORES)

    assert "is PostgreSQL 17's and this is PostgreSQL 18" in told


def test_a_limit_on_the_size_of_files_is_told_before_a_store_meets_it(state: Path) -> None:
    up = f"{sys.executable} -m services.cli up --ports-from {free_ports(16)} --state {state} {' '.join(STORES)}"
    limited = f"ulimit -f 1000; exec {up}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=DEADLINE_S, check=False)

    assert "ulimit -f unlimited" in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def unread_shop(state: Path) -> Iterator[subprocess.Popen[str]]:
    """A shop behind a pipe whose reader takes one line and goes."""
    command = f"{sys.executable} -m services.cli up --ports-from {free_ports(16)} {' '.join(STORES)} | head -n 1"
    environment = {**os.environ, "SHOPMESH_STATE": str(state)}
    with subprocess.Popen(
        ["bash", "-c", command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as shop:
        yield shop


async def test_a_shop_goes_on_when_nobody_reads_what_it_says(state: Path) -> None:
    folder = StateFolder(state)

    async def is_ready() -> bool:
        return folder.holder() is not None and bool(folder.read()["ready"])

    with unread_shop(state) as shop:
        await eventually(is_ready, "the shop is ready")
        said(state, "down")
        assert shop.stdout
        assert shop.stdout.read().splitlines()[1:] == []
