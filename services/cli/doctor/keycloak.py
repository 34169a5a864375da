"""Whether Keycloak is the one that everybody means: its name, its keys, its clock."""

from typing import Any
from urllib.parse import urlsplit

from services.chassis.settings import LOOPBACK
from services.cli.doctor.findings import Fetched, Finding, Health, Identity
from services.cli.places import CERTS

CLOCK_S = 30.0
"""Clocks that differ by more are told. Envoy forgives 60 s, services none."""
_JWKS_MEND = "let SHOPMESH_JWKS_URL be <Keycloak>/realms/shop/protocol/openid-connect/certs"


def issuer_inside(of: Identity, found: Fetched | str) -> Finding:
    """What Keycloak calls itself where tokens are fetched."""
    if isinstance(found, str):
        return Finding("issuer", Health.AWAY, f"Keycloak at {of.inside}: {found}", no_keycloak(of))
    said = found.content.get("issuer")
    if said == of.issuer:
        return Finding("issuer", Health.OK, f"Keycloak at {of.inside} calls itself {said}, and so does SHOPMESH_ISSUER")
    return Finding(
        "issuer", Health.WRONG, f"Keycloak at {of.inside} calls itself {said}, SHOPMESH_ISSUER is {of.issuer}",
        "its tokens are refused everywhere: make the two equal, SHOPMESH_ISSUER of all processes or Keycloak's "
        "--hostname (in compose.yaml SHOPMESH_IDENTITY sets both); keep the one that browsers reach",
    )  # fmt: skip


def issuer_outside(of: Identity, found: Fetched | str) -> Finding:
    """What it calls itself under the name that is in tokens."""
    if isinstance(found, str):
        return Finding("issuer", Health.AWAY, f"{of.issuer}: {found}", _why_not_public(of), fine=True)
    said = found.content.get("issuer")
    if said == of.issuer:
        return Finding("issuer", Health.OK, f"{of.issuer} answers here too, under that name")
    return Finding(
        "issuer", Health.WRONG, f"at {of.issuer} there is one that calls itself {said}",
        "two Keycloaks: let SHOPMESH_ISSUER name the one that SHOPMESH_TOKEN_URL and SHOPMESH_JWKS_URL lead to",
    )  # fmt: skip


def no_keycloak(of: Identity) -> str:
    """The mend where tokens are fetched and nobody answers."""
    if of.has_a_wall:
        return "is it ready (`docker compose ps keycloak`), and is SHOPMESH_TOKEN_URL an address of it in this network?"
    if _is_local(of.issuer):
        return (
            "on the machine of the shop: start it (`shopmesh status`); in a container localhost is the container "
            "itself: there SHOPMESH_TOKEN_URL and SHOPMESH_JWKS_URL have to name Keycloak's address in the network"
        )
    return "start it, or mend the way to it; SHOPMESH_TOKEN_URL and SHOPMESH_JWKS_URL may name another way"


def _why_not_public(of: Identity) -> str:
    if _is_local(of.issuer):
        return "as it should be in a container, where localhost is the container itself: it is for callers and browsers"
    return "fine as long as callers and browsers reach it: nobody here goes there, `iss` is compared as text"


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in LOOPBACK


def keys(of: Identity, found: Fetched | str) -> Finding:
    """What services and Envoy check signatures with."""
    if isinstance(found, str):
        return Finding(
            "keys", Health.AWAY, f"{of.jwks_url}: {found}",
            "services check tokens with the keys from there: SHOPMESH_JWKS_URL has to be an address of Keycloak that "
            "they and Envoy reach",
        )  # fmt: skip
    names = ", ".join(kid[:8] for kid in signing(found.content))
    if not names:
        return Finding("keys", Health.WRONG, f"{of.jwks_url} has no RSA key for signatures", _JWKS_MEND)
    return Finding("keys", Health.OK, f"{of.jwks_url} has {names}")


def same_keys(of: Identity, inside: Fetched | str, public: Fetched | str) -> Finding:
    """Whether these are the issuer's own."""
    if isinstance(public, str):
        return Finding("keys", Health.AWAY, f"{of.issuer}/{CERTS}: {public}", _why_not_public(of), fine=True)
    if isinstance(inside, str):
        return Finding("keys", Health.OK, f"{of.issuer} has {', '.join(kid[:8] for kid in signing(public.content))}")
    if signing(inside.content) == signing(public.content):
        return Finding("keys", Health.OK, f"the issuer's own, at {of.issuer}, are the same")
    return Finding(
        "keys", Health.WRONG, f"the issuer's own, at {of.issuer}, are others",
        "two Keycloaks, or two realms: let SHOPMESH_JWKS_URL and SHOPMESH_ISSUER lead to the same",
    )  # fmt: skip


def signing(document: Any) -> dict[str, str]:  # noqa: ANN401  a JWKS document
    """Moduli of its RSA keys for signatures, by kid."""
    keys = document.get("keys", ()) if isinstance(document, dict) else ()
    return {key["kid"]: key["n"] for key in keys if key.get("kty") == "RSA" and key.get("use", "sig") == "sig"}


def clock(whose: str, ahead_s: float) -> Finding:
    """Whether somebody's clock is this machine's."""
    if abs(ahead_s) <= CLOCK_S:
        return Finding("clock", Health.OK, f"that of {whose} and this machine's agree")
    by = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    return Finding(
        "clock", Health.WRONG, f"that of {whose} is {by}",
        "set the machines by NTP (containers have the clock of their machine): a token is good from Keycloak's now to "
        "its exp, by the clock of who looks at it",
    )  # fmt: skip
