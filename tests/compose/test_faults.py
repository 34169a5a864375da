"""Containers that are killed, and services that get another image, while customers buy and read.

`make test-compose` prints the table of docs/faults.md.
"""

import asyncio
from collections.abc import Awaitable

import pytest

from services.cli.identity import access_token
from tests.compose.customers import Customers
from tests.compose.faults import Row, killed, rolled, under
from tests.compose.project import SERVICES, Project

LOGINS = 12
"""At once."""
STORES = {
    "etcd": "etcd is killed",
    "nats": "NATS is killed",
    "postgres": "PostgreSQL is killed",
    "keycloak": "Keycloak is killed",
    "mailpit": "The mail server is killed",
    "telemetry": "The store of telemetry is killed",
}


@pytest.mark.parametrize("service", [*SERVICES, "controlplane"])
async def test_a_container_that_is_killed_costs_nothing(
    project: Project, customers: Customers, rows: list[Row], service: str
) -> None:
    row = await under(
        f"Both containers of {service}, one after the other, are killed", killed(service), project, customers
    )
    rows.append(row)
    assert not row.seen.failed
    assert not row.seen.unanswered, "no call had to be tried again"


async def test_an_envoy_that_is_killed_costs_those_who_know_both_a_second_try(
    project: Project, customers: Customers, rows: list[Row]
) -> None:
    rows.append(row := await under("Both Envoys, one after the other, are killed", killed("envoy"), project, customers))
    assert not row.seen.failed


@pytest.mark.parametrize("service", [*SERVICES, "controlplane"])
async def test_a_rolling_replacement_costs_nothing(
    project: Project, customers: Customers, rows: list[Row], service: str
) -> None:
    row = await under(f"{service} gets another image (deploy/compose/roll)", rolled(service), project, customers)
    rows.append(row)
    assert not row.seen.failed
    assert not row.seen.unanswered, "no call had to be tried again"


@pytest.mark.parametrize("service", STORES)
async def test_a_store_that_is_killed_costs_patience_and_nothing_else(
    project: Project, customers: Customers, rows: list[Row], service: str
) -> None:
    rows.append(row := await under(STORES[service], killed(service), project, customers))
    assert not row.seen.failed


async def test_a_restart_of_postgresql_costs_nobody_a_token(project: Project) -> None:
    def log_in() -> Awaitable[str]:
        return asyncio.to_thread(access_token, project.token_url, "ann")

    await asyncio.gather(*(log_in() for _ in range(LOGINS)))  # as many connections to it

    await killed("postgres")(project)

    assert all(await asyncio.gather(*(log_in() for _ in range(LOGINS))))


def test_the_audit_finds_nothing_in_the_end(project: Project) -> None:
    project.shopmesh("audit", "--all", "--deep")
