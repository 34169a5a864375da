"""`shopmesh doctor` of a mesh with a real Envoy and a real service, each thing broken on purpose."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from click.testing import CliRunner

from services.cli.__main__ import main
from services.cli.doctor.checks import examined
from services.cli.doctor.findings import Finding, Health, Identity
from tests.support.issuer import Issuer, Key, running_issuer
from tests.support.mesh import Mesh, running_mesh
from tests.support.ports import free_port
from tests.support.postgres import Postgres
from tests.support.serving import ServiceProcess, running_service

OK, WRONG, AWAY = Health


@pytest.fixture(scope="module")
async def product(postgres: Postgres) -> AsyncIterator[tuple[Mesh, ServiceProcess]]:
    """A mesh with one service."""
    with running_mesh() as mesh:
        url = await postgres.make("services.product")
        with running_service(
            "product", database_url=url, etcd=mesh.etcd, issuer=mesh.issuer, INSTANCE="product"
        ) as service:
            await mesh.healthy("product", 1)
            yield mesh, service


@pytest.fixture
async def told(product: tuple[Mesh, ServiceProcess]) -> Identity:
    """What is right."""
    mesh, _ = product
    return identity(mesh, mesh.issuer)


def identity(mesh: Mesh, issuer: Issuer) -> Identity:
    return Identity(
        issuer=issuer.url,
        token_url=issuer.token_url,
        jwks_url=issuer.jwks_url,
        audience="shop-api",
        edge=mesh.envoy.edge,
        etcd=mesh.etcd.endpoint,
    )


async def found(of: Identity) -> list[Finding]:
    return [finding async for finding in examined(of)]


def by(findings: list[Finding], about: str, health: Health = WRONG) -> Finding:
    """The only one of this kind."""
    (one,) = [finding for finding in findings if (finding.about, finding.health) == (about, health)]
    return one


async def test_nothing_is_wrong_when_all_is_well(told: Identity, product: tuple[Mesh, ServiceProcess]) -> None:
    mesh, service = product
    environment = {"SHOPMESH_EDGE": told.edge, "SHOPMESH_ETCD": told.etcd, "SHOPMESH_ISSUER": told.issuer}

    done = await asyncio.to_thread(CliRunner().invoke, main, ["doctor"], env=environment)

    assert done.exit_code == 0, done.output
    assert done.output.endswith("\nnothing is wrong\n")
    assert f"product        ok: {service.address} takes the token past Envoy" in done.output
    assert f"edge           ok: Envoy at {mesh.envoy.edge} takes the token" in done.output


async def test_another_issuer_than_keycloak_has(told: Identity) -> None:
    findings = await found(replace(told, issuer="http://shop.example.com/realms/shop"))

    assert told.issuer in by(findings, "issuer").said
    assert "--hostname" in by(findings, "issuer").mend
    assert by(findings, "token").said.startswith(f"iss is {told.issuer}, SHOPMESH_ISSUER is http://shop.example.com")


async def test_a_token_without_the_audience(told: Identity, product: tuple[Mesh, ServiceProcess]) -> None:
    mesh, _ = product
    mesh.issuer.audience = None
    try:
        findings = await found(told)
    finally:
        mesh.issuer.audience = "shop-api"

    assert by(findings, "token").said == "aud is missing, not shop-api"
    assert "Audience" in by(findings, "token").mend
    assert "Audience" in by(findings, "edge").mend
    assert "TOKEN_INVALID" in by(findings, "product").said


@pytest.mark.parametrize(("ahead_s", "said"), [(600, "600 s ahead"), (-600, "600 s behind")])
async def test_a_clock_that_is_off(
    told: Identity, product: tuple[Mesh, ServiceProcess], ahead_s: int, said: str
) -> None:
    mesh, _ = product
    mesh.issuer.ahead_s = ahead_s
    try:
        findings = await found(told)
    finally:
        mesh.issuer.ahead_s = 0

    clock = by(findings, "clock")
    assert said.partition(" ")[2] in clock.said
    assert abs(int("".join(filter(str.isdigit, clock.said))) - 600) <= 5
    assert "NTP" in clock.mend
    assert by(findings, "clock", OK).said == "that of the edge and this machine's agree"
    if ahead_s < 0:  # a token that is made for five minutes is over when it comes
        assert "Jwt is expired" in by(findings, "edge").said
        assert "NTP" in by(findings, "token").mend


async def test_keys_of_another_keycloak(told: Identity) -> None:
    with running_issuer() as another:
        another.key = Key("another")
        findings = await found(replace(told, jwks_url=another.jwks_url))

    assert [finding.said for finding in findings if finding.about == "keys" and finding.health is WRONG] == [
        f"the issuer's own, at {told.issuer}, are others"
    ]
    assert by(findings, "token").said == f"its key test-1 is not at {another.jwks_url}"


async def test_a_key_that_nobody_has_heard_of(told: Identity, product: tuple[Mesh, ServiceProcess]) -> None:
    mesh, _ = product
    forged = mesh.issuer.token("ann", ["customer"], key=Key("forger"))

    findings = await found(replace(told, token=forged))

    assert by(findings, "token").said == f"its key forger is not at {told.jwks_url}"
    assert "other keys" in by(findings, "edge").mend
    assert by(findings, "product").harms


async def test_a_signature_of_another_key_under_the_same_name(
    told: Identity, product: tuple[Mesh, ServiceProcess]
) -> None:
    mesh, _ = product
    forged = mesh.issuer.token("ann", ["customer"], key=Key(mesh.issuer.key.kid))

    findings = await found(replace(told, token=forged))

    assert by(findings, "token").said == f"its signature is not of the key at {told.jwks_url}"
    assert "the same name" in by(findings, "edge").mend


async def test_keycloak_is_away(told: Identity, product: tuple[Mesh, ServiceProcess]) -> None:
    mesh, _ = product
    mesh.issuer.away = True
    try:
        findings = await found(told)
    finally:
        mesh.issuer.away = False

    assert "answers 503" in by(findings, "issuer", AWAY).said
    assert "shopmesh status" in by(findings, "issuer", AWAY).mend
    assert by(findings, "keys", AWAY).harms
    assert "503" in by(findings, "token").said


async def test_in_a_container_localhost_is_the_container_itself(told: Identity) -> None:
    """Keycloak is reached by another name than the one in tokens, which leads nowhere from here."""
    public = f"http://localhost:{free_port()}/realms/shop"

    findings = await found(replace(told, issuer=public))

    away = [finding for finding in findings if finding.health is AWAY]
    assert [finding.about for finding in away] == ["issuer", "keys"]
    assert all(finding.fine and "localhost is the container itself" in finding.mend for finding in away)


async def test_an_envoy_and_a_service_that_were_told_of_the_issuer_before(product: tuple[Mesh, ServiceProcess]) -> None:
    mesh, service = product
    with running_issuer() as moved:
        moved.key = mesh.issuer.key
        findings = await found(identity(mesh, moved))

    assert not by(findings, "token", OK).mend
    assert "Jwt issuer is not configured" in by(findings, "edge").said
    assert "the control plane was started with another SHOPMESH_ISSUER" in by(findings, "edge").mend
    assert by(findings, "product").said.startswith(f"{service.address} refuses the token past Envoy: UNAUTHENTICATED")
    assert f"trusted {mesh.issuer.url}" in by(findings, "product").said
    assert "SHOPMESH_ISSUER" in by(findings, "product").mend


async def test_nobody_is_at_the_edge(told: Identity) -> None:
    findings = await found(replace(told, edge=f"127.0.0.1:{free_port()}", etcd=""))

    assert by(findings, "edge", AWAY).harms
    assert not by(findings, "services", AWAY).harms
