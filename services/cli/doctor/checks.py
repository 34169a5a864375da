"""What `shopmesh doctor` looks at: whether everybody means the same Keycloak, by the same clock.

A token names its issuer (`iss`), and everybody who takes it compares that text with SHOPMESH_ISSUER; nobody goes there
to check. What is fetched, tokens and keys, is fetched at SHOPMESH_TOKEN_URL and SHOPMESH_JWKS_URL, which may be another
way to the same Keycloak: in containers it has to be.
"""

from collections.abc import AsyncIterator

from services.chassis.http import httpx
from services.cli.doctor.findings import TIMEOUT_S, Fetched, Finding, Identity, fetched
from services.cli.doctor.keycloak import clock, issuer_inside, issuer_outside, keys, same_keys
from services.cli.doctor.taking import taken
from services.cli.doctor.tokens import claims, fetched_token, made_ahead_s
from services.cli.places import CERTS

_DISCOVERY = ".well-known/openid-configuration"


async def examined(of: Identity) -> AsyncIterator[Finding]:
    """Everything, in the order in which one thing needs the other."""
    # Nothing here is asked of the internet, and certificates take time to load.
    secure = any(url.startswith("https") for url in (of.issuer, of.token_url, of.jwks_url))
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S, verify=secure) as http:
        inside = await fetched(http, f"{of.inside}/{_DISCOVERY}")
        yield issuer_inside(of, inside)
        public = await fetched(http, f"{of.issuer}/{_DISCOVERY}") if of.inside != of.issuer else None
        if public is not None:
            yield issuer_outside(of, public)
        found = await fetched(http, of.jwks_url)
        yield keys(of, found)
        if of.jwks_url != f"{of.issuer}/{CERTS}":
            yield same_keys(of, found, await fetched(http, f"{of.issuer}/{CERTS}"))
        token, trouble = await fetched_token(of, http)
        if trouble:
            yield trouble
        for finding in await claims(of, http, token, found) if token else ():
            yield finding
        edge = await fetched(http, f"http://{of.edge}/v1/products?page_size=1")
        # Keycloak itself sends no Date; a token that was fetched just now has its time.
        clocks = {"Keycloak": made_ahead_s(token) if token and not of.token else None}
        clocks["the edge"] = edge.ahead_s if isinstance(edge, Fetched) else None
        for whose, ahead_s in clocks.items():
            if ahead_s is not None:
                yield clock(whose, ahead_s)
    async for finding in taken(of, token):
        yield finding
