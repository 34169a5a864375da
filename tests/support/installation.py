"""The shop that is looked at from outside: a stack of our own, or somebody's installation.

SHOPMESH_TARGET (host:port of its edge) names an installation; then the suite in tests/e2e makes its own data there,
calls no faster than a person's limit allows, and leaves all the rest alone. Without it a stack of our own is started.
"""

import json
import os
import time
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support.shop import Shop

TARGET = "SHOPMESH_TARGET"
STEERING = "it steers the shop, which `make test` does to a stack of its own"
_RENEW_S = 60.0


@dataclass(frozen=True, slots=True)
class Installation:
    """Where a shop is. What is not known is empty: a test that needs it is skipped."""

    edge: str
    """`host:port`."""
    issuer: str
    """What `iss` of a token must be."""
    token_url: str
    mail: str = ""
    """URL of Mailpit's API, up to its path."""
    pages: str = ""
    """URL of the pages of its telemetry."""
    etcd: str = ""
    """`host:port`."""
    secrets: Path | None = None
    """A folder with the client secrets of the services, `<service>/client-secret` or `<service>`."""
    logins: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """Name and password of those who are not called as in the development realm, by their name there."""
    _tokens: dict[str, str] = field(default_factory=dict[str, str], repr=False)

    @classmethod
    def of(cls, shop: Shop) -> Self:
        """A stack of our own."""
        return cls(
            edge=shop.edge,
            issuer=shop.issuer,
            token_url=token_url(shop.issuer),
            mail=shop.mail,
            pages=shop.pages,
            etcd=f"127.0.0.1:{shop.ports['etcd']}",
            secrets=shop.state / "secrets",
        )

    @classmethod
    def given(cls, environ: Mapping[str, str] = os.environ) -> Self | None:
        """The installation that the environment names, None when it names none."""

        def value(name: str) -> str:
            return environ.get(f"SHOPMESH_{name}", "")

        def url(name: str) -> str:
            return f"http://{value(name)}" if value(name) else ""

        if not value("TARGET"):
            return None
        issuer = value("ISSUER") or "http://localhost:8180/realms/shop"
        people = {name: (value(f"USER_{name.upper()}"), value(f"PASSWORD_{name.upper()}")) for name in PEOPLE}
        return cls(
            edge=value("TARGET"),
            issuer=issuer,
            token_url=value("TOKEN_URL") or token_url(issuer),
            mail=url("MAIL"),
            pages=url("TELEMETRY"),
            etcd=value("ETCD").partition(",")[0],
            secrets=Path(value("SECRETS")) if value("SECRETS") else None,
            logins={name: (user or name, password or name) for name, (user, password) in people.items()},
        )

    def token(self, person: str) -> str:
        """An access token that is good for a minute at least."""
        user, password = self.logins.get(person, (person, person))
        form = {"grant_type": "password", "client_id": "shopmesh-cli", "username": user, "password": password}
        return self._token(person, form)

    def service_token(self, service: str) -> str:
        """The service's own, for its own secret."""
        assert self.secrets
        file = self.secrets / service
        secret = (file / "client-secret" if file.is_dir() else file).read_text().strip()
        form = {"grant_type": "client_credentials", "client_id": service, "client_secret": secret}
        return self._token(f"the {service} service", form)

    def claims(self, person: str) -> dict[str, Any]:
        """What the token of a person says."""
        return claims_of(self.token(person))

    def _token(self, whose: str, form: Mapping[str, str]) -> str:
        if (kept := self._tokens.get(whose)) and claims_of(kept)["exp"] - time.time() > _RENEW_S:
            return kept
        answer = httpx.post(self.token_url, data=form, trust_env=False, timeout=60)
        assert answer.status_code == httpx.codes.OK, f"no token for {whose}: {answer.status_code} {answer.text}"
        self._tokens[whose] = str(answer.json()["access_token"])
        return self._tokens[whose]


PEOPLE = {
    "ann": {"customer"},
    "bob": {"customer"},
    "carol": {"catalog-manager", "inventory-manager"},
    "oscar": {"operator"},
}
"""Whom the suite calls as, and their roles. SHOPMESH_USER_ANN and SHOPMESH_PASSWORD_ANN name another one for her."""


def token_url(issuer: str) -> str:
    return f"{issuer}/protocol/openid-connect/token"


def claims_of(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    claims: dict[str, Any] = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims
