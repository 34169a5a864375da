"""Whether a token is as everybody wants it: issuer, audience, life, key."""

import json
import time
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from services.chassis.auth import IdentityUnavailable, Keys, Tokens
from services.chassis.http import httpx
from services.chassis.token_refusals import TokenInvalid
from services.cli.doctor.findings import MAPPER, Fetched, Finding, Health, Identity, in_words
from services.cli.doctor.keycloak import no_keycloak, signing

_KID_MEND = "it is of another Keycloak or realm than SHOPMESH_JWKS_URL leads to: let both lead to the same"


async def fetched_token(of: Identity, http: httpx.AsyncClient) -> tuple[str, Finding | None]:
    """One to look at, or why there is none."""
    if of.token:
        return of.token, None
    if of.secret_file:
        form = {
            "grant_type": "client_credentials",
            "client_id": "order",
            "client_secret": of.secret_file.read_text().strip(),
        }
        whose = "the order service"
    else:
        form = {"grant_type": "password", "client_id": "shopmesh-cli", "username": of.user, "password": of.user}
        whose = of.user
    try:
        answer = await http.post(of.token_url, data=form)
    except httpx.HTTPError as error:
        return "", Finding("token", Health.AWAY, f"none from {of.token_url}: {in_words(error)}", no_keycloak(of))
    if answer.status_code == httpx.codes.OK:
        return str(answer.json()["access_token"]), None
    said = f"Keycloak gives none to {whose}: {answer.status_code} {answer.text[:200]}"
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        return "", Finding(
            "token", Health.WRONG, said, "its own log says why: `shopmesh logs keycloak`, or its container's"
        )
    return "", Finding(
        "token", Health.WRONG, said,
        "a shop without demo users (SHOPMESH_DEMO=no) has no ann: SHOPMESH_SECRETS names a folder with "
        "order/client-secret, or SHOPMESH_TOKEN is an access token to be looked at instead",
    )  # fmt: skip


async def claims(of: Identity, http: httpx.AsyncClient, token: str, keys: Fetched | str) -> Sequence[Finding]:
    """All that is wrong with it, or one line that says what it is."""
    try:
        header, claims = _part(token, 0), _part(token, 1)
    except (ValueError, IndexError):
        return [Finding("token", Health.WRONG, "it is no JWT", "take the field access_token of Keycloak's answer")]
    wrong = [
        finding
        for finding in (_iss(of, claims), _aud(of, claims), _life(claims), _kid(of, header, keys))
        if finding is not None
    ]
    if not wrong and isinstance(keys, Fetched) and not await _is_signed(of, http, token):
        wrong.append(Finding("token", Health.WRONG, f"its signature is not of the key at {of.jwks_url}", _KID_MEND))
    left = timedelta(seconds=round(claims.get("exp", 0) - time.time()))
    good = (
        f"of {claims.get('azp', '?')} ({claims.get('sub')}): iss, aud {of.audience}, good for {left}, its key is known"
    )
    return wrong or [Finding("token", Health.OK, good)]


def made_ahead_s(token: str) -> float | None:
    """Of our clock, the one of who has made this token just now; None where it does not say when."""
    try:
        made = _part(token, 1).get("iat")
    except (ValueError, IndexError):
        return None
    return made + 0.5 - time.time() if isinstance(made, int | float) else None


def _iss(of: Identity, claims: Mapping[str, Any]) -> Finding | None:
    if claims.get("iss") == of.issuer:
        return None
    return Finding(
        "token", Health.WRONG, f"iss is {claims.get('iss')}, SHOPMESH_ISSUER is {of.issuer}",
        "the two are compared as text, to the last character: Keycloak's --hostname makes the first, in compose.yaml "
        "SHOPMESH_IDENTITY both",
    )  # fmt: skip


def _aud(of: Identity, claims: Mapping[str, Any]) -> Finding | None:
    audience = claims.get("aud", [])
    if of.audience in ([audience] if isinstance(audience, str) else audience):
        return None
    return Finding(
        "token", Health.WRONG, f"aud is {audience or 'missing'}, not {of.audience}", MAPPER.format(of.audience)
    )


def _life(claims: Mapping[str, Any]) -> Finding | None:
    if not claims.get("sub"):
        return Finding("token", Health.WRONG, "it has no sub", "give its client in Keycloak the client scope basic")
    if claims.get("exp", 0) > time.time():
        return None
    ago_s = round(time.time() - claims.get("exp", 0))
    return Finding(
        "token", Health.WRONG, f"it expired {ago_s} s ago by the clock of this machine",
        "fetch a new one; when that is expired at once, the clocks differ: set both machines by NTP",
    )  # fmt: skip


def _kid(of: Identity, header: Mapping[str, Any], keys: Fetched | str) -> Finding | None:
    if isinstance(keys, str) or header.get("kid") in signing(keys.content):
        return None
    return Finding("token", Health.WRONG, f"its key {str(header.get('kid'))[:8]} is not at {of.jwks_url}", _KID_MEND)


async def _is_signed(of: Identity, http: httpx.AsyncClient, token: str) -> bool:
    """As a service looks at it."""
    try:
        await Tokens(Keys(of.jwks_url, http), of.issuer, of.audience).verify(f"Bearer {token}")
    except TokenInvalid:
        return False
    except IdentityUnavailable:
        pass  # they could be had a moment ago, and what was read of them fits
    return True


def _part(token: str, number: int) -> dict[str, Any]:
    """Raises ValueError, IndexError for what is no JWT."""
    body = token.split(".")[number]
    said = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    if not isinstance(said, dict):
        raise ValueError("no object")  # noqa: TRY004  as json's own
    return said
