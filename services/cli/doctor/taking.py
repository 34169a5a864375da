"""Whether a token is taken: by Envoy at the edge, and by each instance past it."""

from collections.abc import AsyncIterator

from services.cli.doctor.callers import Heard, ask, instances
from services.cli.doctor.findings import MAPPER, Finding, Health, Identity

ENVOYS_WORDS = {
    "Jwt issuer is not configured": "the control plane was started with another SHOPMESH_ISSUER: give it this one and "
    "start it again, Envoy hears of it at once",
    "Audiences in Jwt are not allowed": "the token is not for SHOPMESH_AUDIENCE of the control plane; " + MAPPER,
    "Jwks doesn't have key": "Envoy has other keys: SHOPMESH_JWKS_URL of the control plane leads to another Keycloak, "
    "or Keycloak has begun to use a new key, which Envoy learns of within minutes",
    "Jwks remote fetch is failed": "Envoy cannot fetch the keys at SHOPMESH_JWKS_URL of the control plane: that "
    "address must be one that Envoy reaches, in a network that it shares with Keycloak",
    "Jwt verification fails": "the signature is of another key with the same name: SHOPMESH_JWKS_URL of the control "
    "plane leads to another Keycloak",
    "Jwt is expired": "the clock of Envoy's machine is ahead of Keycloak's: set both by NTP",
    "Jwt not yet valid": "the clock of Envoy's machine is behind Keycloak's: set both by NTP",
}
"""What jwt_authn says, and what mends it."""


async def taken(of: Identity, token: str) -> AsyncIterator[Finding]:
    """At the edge, then past it. Nothing where there is no token."""
    if not token:
        return
    yield _at_the_edge(of, await ask(of.edge, "product", token))
    if not of.etcd:
        yield Finding("services", Health.AWAY, "not asked", "SHOPMESH_ETCD=host:port tells where they are", fine=True)
        return
    found = await instances(of.etcd)
    if isinstance(found, str):
        yield Finding(
            "services", Health.AWAY, f"etcd at {of.etcd} {found}", "it tells where they are: `shopmesh status`"
        )
        return
    for instance, service, address in found:
        yield _past_envoy(instance, address, await ask(address, service, token))


def _at_the_edge(of: Identity, heard: Heard) -> Finding:
    if heard.silent:
        return Finding(
            "edge", Health.AWAY, f"Envoy at {of.edge}: {heard.said}", "`shopmesh status` tells whether it runs"
        )
    if heard.accepted:
        return Finding("edge", Health.OK, f"Envoy at {of.edge} takes the token, and so does the service behind it")
    if heard.reason:
        return Finding(
            "edge", Health.WRONG, f"Envoy takes the token, the service behind it does not: {heard.said}", _SERVICE_MEND
        )
    mend = next((mend for words, mend in ENVOYS_WORDS.items() if words in heard.said), "see `shopmesh logs envoy`")
    return Finding("edge", Health.WRONG, f"Envoy at {of.edge} refuses it: {heard.said}", mend.format(of.audience))


_SERVICE_MEND = (
    "compare SHOPMESH_ISSUER, SHOPMESH_AUDIENCE and SHOPMESH_JWKS_URL of that process with these; it reads them when "
    "it starts"
)


def _past_envoy(instance: str, address: str, heard: Heard) -> Finding:
    if heard.silent:
        return Finding(
            instance, Health.AWAY, f"{address}: {heard.said}",
            "fine where services have a network of their own: `docker compose run --rm -T shopmesh doctor` is in it",
            fine=True,
        )  # fmt: skip
    if heard.accepted:
        return Finding(instance, Health.OK, f"{address} takes the token past Envoy")
    if heard.reason == "IDENTITY_UNAVAILABLE":
        return Finding(
            instance, Health.WRONG, f"{address} cannot fetch the keys: {heard.said}",
            "its SHOPMESH_JWKS_URL has to be an address of Keycloak that it reaches: in a container never localhost",
        )  # fmt: skip
    return Finding(instance, Health.WRONG, f"{address} refuses the token past Envoy: {heard.said}", _SERVICE_MEND)
