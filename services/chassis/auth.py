"""Who is calling, and whether they may: tokens, keys, the rules of rpcs, and this service's own token."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import tenacity
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from jose import jwk, jws, jwt
from jose.backends.base import Key
from jose.exceptions import JOSEError
from mesh.v1 import auth_pb2

from services.chassis import logs
from services.chassis.http import httpx
from services.chassis.interceptors import Admission, Call
from services.chassis.settings import Settings
from services.chassis.token_refusals import TokenInvalid, told_by
from services.refusals import Forbidden, Unavailable

AUTHORIZATION = "authorization"
_BELIEVED = 10_000
"""Tokens remembered as verified; the oldest goes first."""
_REFETCH_S = 5.0
"""Keys are fetched for an unknown kid this often at most: whoever invents kids costs no more."""
_RETRY_S = 1.0
_STALE_S = 300.0
"""Keys older than this are renewed beside the next look, so that a withdrawn one does not stay for ever."""
_REQUIRED = {"require_aud": True, "require_exp": True, "require_iss": True, "require_sub": True}


class RoleMissing(Forbidden):
    reason = "ROLE_MISSING"
    message = "This rpc is not for this caller; the metadata says for whom it is."


class IdentityUnavailable(Unavailable):
    reason = "IDENTITY_UNAVAILABLE"
    message = "The identity provider is not reachable, so nobody can be told who is who."


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a valid token names."""

    subject: str
    email: str | None
    roles: frozenset[str]
    client: str
    """The client that the token was issued to (`azp`): for a service's own token, that service."""
    expires: datetime


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def caller() -> Caller:
    """Who calls the rpc that we serve. Raises LookupError in a public one that was called without a token."""
    if (found := _caller.get()) is None:
        raise LookupError("nobody is known to be calling")
    return found


@dataclass(frozen=True, slots=True)
class Rule:
    """Whom an rpc lets in: the option mesh.v1.rule."""

    public: bool
    roles: frozenset[str]
    clients: frozenset[str]

    @classmethod
    def of(cls, method: MethodDescriptor) -> Self:
        """Raises ValueError for an rpc without exactly one of public, roles, clients."""
        option = method.GetOptions().Extensions[auth_pb2.rule]
        if (option.public, bool(option.roles), bool(option.clients)).count(True) != 1:
            raise ValueError(f"{method.full_name} needs the option mesh.v1.rule with one of public, roles, clients")
        return cls(option.public, frozenset(option.roles), frozenset(option.clients))

    def admit(self, caller: Caller | None) -> None:
        """Raises TokenInvalid, RoleMissing."""
        if self.public:
            return
        if caller is None:
            raise TokenInvalid
        if self.roles and not self.roles & caller.roles:
            raise RoleMissing(roles=",".join(sorted(self.roles)))
        if self.clients and caller.client not in self.clients:
            raise RoleMissing(clients=",".join(sorted(self.clients)))


def rules_of(service: ServiceDescriptor) -> dict[str, Rule]:
    """By method, as it stands on the wire: `/package.Service/Method`. Raises ValueError for an rpc without a rule."""
    return {f"/{service.full_name}/{method.name}": Rule.of(method) for method in service.methods}


def admission(tokens: "Tokens", rules: Mapping[str, Rule]) -> Admission:
    """Lets in whom the rule of the rpc names. An rpc that no rule is known of admits nobody.

    What it returns raises TokenInvalid, RoleMissing and IdentityUnavailable, else leaves the `caller()` of the call.
    """

    async def admit(call: Call) -> None:
        rule = rules[call.method]
        header = call.metadata.get(AUTHORIZATION)
        caller = None if header is None else await tokens.verify(header)
        if caller is not None:
            call.caller, call.expires = caller.subject, caller.expires.timestamp()
        rule.admit(caller)
        _caller.set(caller)

    return admit


class Keys:
    """The issuer's public keys: fetched when the first token comes or before, kept through its outage."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self._url, self._http = url, http
        self._keys: dict[str, Key] = {}
        self._fetched = self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def get(self, kid: str) -> Key:
        """Raises TokenInvalid for a key that the issuer does not have, IdentityUnavailable when it cannot be asked."""
        stale = time.monotonic() - self._fetched > _STALE_S
        if (stale or kid not in self._keys) and self._may_ask():
            self._fetching = asyncio.create_task(self._fetch())
        if kid not in self._keys and self._fetching is not None:
            await asyncio.shield(self._fetching)  # it serves others too
        if kid in self._keys:
            return self._keys[kid]
        if self._fetched < self._tried:
            raise IdentityUnavailable
        raise TokenInvalid

    async def prefetch(self) -> None:
        """Asks before there is a token. An issuer that is away is asked again when one comes."""
        await self._fetch(expected=False)

    def _may_ask(self) -> bool:
        if self._fetching is not None and not self._fetching.done():
            return False
        pause = _REFETCH_S if self._fetched == self._tried else _RETRY_S
        return time.monotonic() - self._tried >= pause

    async def _fetch(self, *, expected: bool = True) -> None:
        self._tried = time.monotonic()
        try:
            answer = await self._http.get(self._url)
            keys = _keys_of(answer.raise_for_status().json())
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError, JOSEError) as error:
            tell = logs.get().warning if expected else logs.get().info
            tell("the keys of the token issuer cannot be had", url=self._url, error=repr(error))
            return
        self._keys, self._fetched = keys, self._tried


class Tokens:
    """Verifies bearer tokens; a verified one is believed until it expires."""

    def __init__(self, keys: Keys, issuer: str, audience: str) -> None:
        self._keys, self._issuer, self._audience = keys, issuer, audience
        self._believed: dict[str, tuple[float, Caller]] = {}

    async def verify(self, header: str | bytes) -> Caller:
        """Whom the header of a call names. Raises TokenInvalid, IdentityUnavailable."""
        if not isinstance(header, str):
            raise TokenInvalid
        if known := self._believed.get(header):
            expires, caller = known
            if expires > time.time():
                return caller
            del self._believed[header]
            raise TokenInvalid
        expires, caller = await self._read(header)
        if len(self._believed) >= _BELIEVED:
            del self._believed[next(iter(self._believed))]
        self._believed[header] = expires, caller
        return caller

    async def _read(self, header: str) -> tuple[float, Caller]:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise TokenInvalid
        try:
            key = await self._keys.get(_kid_of(token))
            claims = jwt.decode(
                token, key, algorithms=["RS256"], audience=self._audience, issuer=self._issuer, options=_REQUIRED
            )
        except (JOSEError, RecursionError, TokenInvalid):  # deeply nested JSON
            raise self._refusal(token) from None
        # RFC 7519 section 4.1.4: not on or after it. jose compares whole seconds, and finds it good for one more.
        if claims["exp"] <= time.time():
            raise TokenInvalid
        return claims["exp"], _named(claims)

    def _refusal(self, token: str) -> TokenInvalid:
        """Why, as far as the token tells itself: the signature is not known to be good."""
        try:
            said = jwt.get_unverified_claims(token)
        except (JOSEError, RecursionError):
            return TokenInvalid()
        return told_by(said, self._issuer, self._audience)


class ServiceToken:
    """The own token of a service (client credentials): fetched when first needed, renewed at half of its life."""

    def __init__(self, settings: Settings, http: httpx.AsyncClient, now: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._http, self._now = settings, http, now
        self._header = ""
        self._renew_at = self._expires = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def header(self) -> str:
        """`Bearer ...`. Raises IdentityUnavailable; a token that is still good outlives the issuer's outage."""
        now = self._now()
        if now >= self._renew_at and (self._fetching is None or self._fetching.done()):
            self._fetching = asyncio.create_task(self._fetch())
        if now < self._expires:
            return self._header
        assert self._fetching is not None
        await asyncio.shield(self._fetching)  # it serves others too
        if self._now() >= self._expires:
            raise IdentityUnavailable
        return self._header

    async def _fetch(self) -> None:
        try:
            await self._ask()
        except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
            self._renew_at = self._now() + _RETRY_S if self._header else self._renew_at
            logs.get().warning("no token for this service", url=self._settings.token_url, error=repr(error))

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(httpx.TransportError),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=0.5),
        reraise=True,
    )
    async def _ask(self) -> None:
        asked = self._now()
        secret_file = self._settings.client_secret_file
        answer = await self._http.post(
            self._settings.token_url,
            data={
                "grant_type": "client_credentials",
                "client_id": self._settings.client_id,
                "client_secret": secret_file.read_text().strip() if secret_file else "",
            },
        )
        content = answer.raise_for_status().json()
        life_s = float(content["expires_in"])
        self._header = f"Bearer {content['access_token']}"
        self._renew_at, self._expires = asked + life_s / 2, asked + life_s


def _keys_of(document: Any) -> dict[str, Key]:  # noqa: ANN401
    """Of a JWKS document, the RSA keys for signatures, each made once: making one costs more than using it."""
    keys = {
        entry["kid"]: jwk.construct(entry, "RS256")
        for entry in document["keys"]
        if entry.get("kty") == "RSA" and entry.get("use", "sig") == "sig" and entry.get("alg", "RS256") == "RS256"
    }
    if not keys:
        raise ValueError("no RSA key for signatures in it")
    return keys


def _kid_of(token: str) -> str:
    header = jws.get_unverified_header(token)
    # RFC 7515 section 4.1.11: a critical extension that is not understood makes the token invalid; none is.
    if "crit" in header or not isinstance(kid := header.get("kid"), str):
        raise TokenInvalid
    return kid


def _named(claims: Mapping[str, Any]) -> Caller:
    realm = claims.get("realm_access")
    roles = realm.get("roles") if isinstance(realm, dict) else None
    email = claims.get("email")
    return Caller(
        subject=claims["sub"],
        email=email if isinstance(email, str) and email else None,
        roles=frozenset(role for role in roles or () if isinstance(role, str)),
        client=str(claims.get("azp", "")),
        expires=datetime.fromtimestamp(claims["exp"], UTC),
    )
