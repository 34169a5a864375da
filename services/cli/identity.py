"""Access tokens from the shop's Keycloak, by the password grant that only the development realm allows."""

import httpx

from services.failure import Failure

CLIENT = "shopmesh-cli"
TIMEOUT_S = 10.0


class NoAnswer(Failure):
    """Keycloak is away, or has too much to do just now."""


def access_token(url: str, user: str) -> str:
    """A fresh access token of a demo user, whose password is their name, from there. Raises Failure, NoAnswer."""
    question = {"grant_type": "password", "client_id": CLIENT, "username": user, "password": user}
    try:
        # No proxy from the environment: Keycloak is on this machine, or in the network of the containers.
        with httpx.Client(trust_env=False, timeout=TIMEOUT_S) as client:
            answer = client.post(url, data=question)
    except httpx.TransportError:
        raise NoAnswer(
            f"no answer from Keycloak at {url}: see `shopmesh status` and its log (`shopmesh logs keycloak`)"
        ) from None
    if answer.status_code in (400, 401) and "invalid_grant" in answer.text:
        raise Failure(
            f"Keycloak knows no demo user {user}: there are ann, bob, carol and oscar, unless a shop is without them"
        )
    if answer.status_code >= 500:
        raise Failure(
            f"Keycloak fails ({answer.status_code}): see `shopmesh logs keycloak`; after a full disk it has to be "
            "started anew (`shopmesh down`, `make run`)"
        )
    if answer.status_code != 200:
        raise Failure(f"Keycloak refused a token for {user}: {answer.status_code} {answer.text}")
    return str(answer.json()["access_token"])
