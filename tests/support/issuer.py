"""A token issuer for tests: signs what it is asked to, and shows its keys as Keycloak does."""

import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import override
from urllib.parse import parse_qs
from uuid import uuid4

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jose import jwk, jwt
from jose.backends.base import Key as SigningKey

AUDIENCE = "shop-api"
REALM = "/realms/shop"
LIFESPAN_S = 300


@dataclass
class Key:
    """An RSA key pair under its `kid`."""

    kid: str
    private: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    @property
    def pem(self) -> str:
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    @cached_property
    def signing(self) -> SigningKey:
        """Taken from the PEM once: that takes as long as ten signatures."""
        return jwk.construct(self.pem, "RS256")

    @property
    def jwk(self) -> dict[str, str]:
        public = self.private.public_key().public_numbers()
        return {
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid,
            "n": _number(public.n), "e": _number(public.e),
        }  # fmt: skip


@dataclass(slots=True)
class Issuer:
    """One realm. Service clients get tokens for any secret; requests are counted. `away`: it answers 503."""

    url: str
    key: Key = field(default_factory=lambda: Key("test-1"))
    lifespan_s: float = LIFESPAN_S
    away: bool = False
    audience: str | None = AUDIENCE
    """Of tokens; None: they have none."""
    ahead_s: int = 0
    """Of its clock."""
    key_requests: int = 0
    token_requests: int = 0
    roles: dict[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """Of people, who get tokens for any password."""
    last_form: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Of the last token request."""

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/protocol/openid-connect/certs"

    @property
    def token_url(self) -> str:
        return f"{self.url}/protocol/openid-connect/token"

    def token(
        self,
        sub: str,
        roles: Sequence[str] = (),
        client: str = "shopmesh-cli",
        email: str | None = None,
        *,
        key: Key | None = None,
        **overrides: object,
    ) -> str:
        """A token as Keycloak makes them. A claim that is overridden by None is left out; another `key` forges it."""
        now = int(time.time()) + self.ahead_s
        claims: dict[str, object] = {
            "iss": self.url,
            "aud": self.audience,
            "sub": sub,
            "azp": client,
            "iat": now,
            "exp": now + LIFESPAN_S,
            "jti": str(uuid4()),
            "typ": "Bearer",
            "realm_access": {"roles": list(roles)},
            "email": f"{sub}@example.com" if email is None else email,
        }
        claims = {name: value for name, value in (claims | overrides).items() if value is not None}
        signer = key or self.key
        return jwt.encode(claims, signer.signing, "RS256", headers={"kid": signer.kid})


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    """An issuer that answers on `url`, on a port of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    issuer = Issuer(f"http://127.0.0.1:{server.server_port}{REALM}")
    _Pages.issuers[server.server_port] = issuer
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        del _Pages.issuers[server.server_port]


class _Pages(BaseHTTPRequestHandler):
    issuers: dict[int, Issuer] = {}  # noqa: RUF012  by port

    def do_GET(self) -> None:
        if self.path.endswith("/.well-known/openid-configuration"):
            self._answer({"issuer": self._issuer.url, "jwks_uri": self._issuer.jwks_url})
            return
        self._issuer.key_requests += 1
        self._answer({"keys": [self._issuer.key.jwk]})

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        self._issuer.token_requests += 1
        self._issuer.last_form = form
        client = form["client_id"][0]
        user, *_ = form.get("username", [f"service-account-{client}"])
        token = self._issuer.token(user, self._issuer.roles.get(user, ()), client)
        self._answer({"access_token": token, "expires_in": self._issuer.lifespan_s, "token_type": "Bearer"})

    @property
    def _issuer(self) -> Issuer:
        return self.issuers[self.server.server_address[1]]  # type: ignore[index]  # ours is TCP

    def _answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(503 if self._issuer.away else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def date_time_string(self, timestamp: float | None = None) -> str:
        """The header Date."""
        return super().date_time_string((timestamp or time.time()) + self._issuer.ahead_s)

    @override
    def log_message(self, format: str, *args: object) -> None:
        pass


def _number(value: int) -> str:
    return urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8)).rstrip(b"=").decode()
