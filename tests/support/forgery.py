"""Tokens as somebody makes them who has seen a good one and the issuer's public keys, and has no key of the issuer."""

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping

from jose import jwk, jwt

from tests.support.issuer import Key

FORGER = Key("forger")


def forgeries(good: str, public: Mapping[str, str]) -> dict[str, str]:
    """By name. All say what the good token says; `public` is the JWK of the issuer's key."""
    kid = public["kid"]
    return {
        "garbage": "garbage",
        "alg none": _signed(good, {"alg": "none", "typ": "JWT", "kid": kid}, b""),
        "HS256 with the public key": _with_the_public_key(good, public),
        "other key, its own kid": _with_another_key(good, FORGER.kid),
        "other key, the issuer's kid": _with_another_key(good, kid),
        "changed claims": _with_changed_claims(good),
    }


def _with_the_public_key(good: str, public: Mapping[str, str]) -> str:
    """For whoever lets the header choose HMAC, and takes the public key for its secret."""
    secret = jwk.construct(dict(public), "RS256").to_pem()
    return _signed(good, {"alg": "HS256", "typ": "JWT", "kid": public["kid"]}, secret)


def _with_another_key(good: str, kid: str) -> str:
    return jwt.encode(_claims(good), FORGER.pem, "RS256", headers={"kid": kid})


def _with_changed_claims(good: str) -> str:
    head, _, signature = good.split(".")
    everything = ["customer", "catalog-manager", "inventory-manager", "operator"]
    return f"{head}.{_encoded(_claims(good) | {'realm_access': {'roles': everything}})}.{signature}"


def _signed(good: str, header: Mapping[str, str], secret: bytes) -> str:
    said = f"{_encoded(header)}.{_encoded(_claims(good))}"
    signature = hmac.digest(secret, said.encode(), hashlib.sha256) if secret else b""
    return f"{said}.{_text(signature)}"


def _claims(token: str) -> dict[str, object]:
    body = token.split(".")[1]
    claims: dict[str, object] = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims


def _encoded(part: Mapping[str, object]) -> str:
    return _text(json.dumps(part).encode())


def _text(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()
