"""`shopmesh doctor`: what is wrong between Keycloak, Envoy and the services, and what mends it."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from services.cli.options import with_state
from services.cli.places import CERTS, Places, places_of, token_url
from services.failure import Failure

if TYPE_CHECKING:
    from services.cli.doctor.findings import Finding, Identity

_WALL = """\
The name in tokens is {issuer}.
Keycloak is reached from here at {inside}.
That the two differ is as it should be in containers: the name is for browsers and callers, and is compared as text;
nobody here fetches anything there. Tokens and keys are fetched at SHOPMESH_TOKEN_URL and SHOPMESH_JWKS_URL."""


@click.command()
@with_state
@click.option("--target", metavar="HOST:PORT", help="The edge of another shop than that of the state folder.")
@click.option(
    "--issuer", metavar="URL", help="Who issues its tokens, as services are told: http://HOST:PORT/realms/shop."
)
@click.option("--user", metavar="NAME", help="Look at a token of this demo user instead of the order service's own.")
def doctor(state: Path, target: str | None, issuer: str | None, user: str | None) -> None:
    """Find out why tokens are refused, and what mends it.

    Looks at Keycloak from both sides, as browsers reach it and as the services do: what it calls itself, its keys, its
    clock; at a token: issuer, audience, life, key; and whether Envoy takes the token, and each instance past Envoy.
    Changes nothing. With an access token in SHOPMESH_TOKEN it looks at that one.

    Each line is ok, wrong or not reachable from here; below it stands what mends it, or why it may be fine. In
    containers: docker compose run --rm -T shopmesh doctor

    Exit code 0: nothing is wrong; 1: something is; 2: it does not know where the shop is.
    """
    from services.cli.doctor.checks import examined

    try:
        of = identity_of(state, target, issuer, user)
    except Failure as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)

    async def look() -> "list[Finding]":
        found = []
        async for finding in examined(of):
            for line in told(finding):
                click.echo(line)
            found.append(finding)
        return found

    findings = asyncio.run(look())
    harms = sum(finding.harms for finding in findings)
    if of.has_a_wall:
        click.echo("\n" + _WALL.format(issuer=of.issuer, inside=of.inside))
    click.echo(f"\n{'nothing is wrong' if not harms else f'{harms} to be mended, the first one first'}")
    sys.exit(1 if harms else 0)


def told(finding: "Finding") -> Iterator[str]:
    """A line, and below it what is to be done."""
    yield f"{finding.about:<14} {finding.health.value}: {finding.said}"
    if finding.mend:
        yield f"{'':14}    {'mend: ' if finding.harms else ''}{finding.mend}"


def identity_of(state: Path, target: str | None, issuer: str | None, user: str | None) -> "Identity":
    """What a process of this shop would be told. Raises Failure."""
    from services.cli.doctor.findings import Identity

    def said(name: str) -> str:
        return os.environ.get(f"SHOPMESH_{name}", "")

    places = Places.of_target(target, issuer) if target else places_of(state)
    iss = issuer or places.issuer
    return Identity(
        issuer=iss,
        token_url=token_url(iss) if issuer and not said("TOKEN_URL") else places.token_url,
        jwks_url=said("JWKS_URL") or f"{iss}/{CERTS}",
        audience=said("AUDIENCE") or "shop-api",
        edge=places.edge,
        etcd=places.known.get("etcd", "").partition(",")[0],
        token=said("TOKEN"),
        secret_file=None if user else _secret(places),
        user=user or "ann",
    )


def _secret(places: Places) -> Path | None:
    """Of the client `order`, where it can be read."""
    told = places.secrets or (places.folder.path / "secrets" if places.folder else None)
    if told is None:
        return None
    files = (told / "order" / "client-secret", told / "order")
    return next((file for file in files if file.is_file() and os.access(file, os.R_OK)), None)
