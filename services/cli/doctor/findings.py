"""What `shopmesh doctor` is told, and what it finds."""

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from pathlib import Path
from typing import Any

from services.chassis.http import httpx
from services.cli.places import TOKEN

TIMEOUT_S = 10.0
MAPPER = (
    "give its client in Keycloak a mapper of type Audience with {}, as the clients in keycloak/shop-realm.json have"
)
"""For a token without the audience."""


class Health(Enum):
    """How a finding is called."""

    OK = "ok"
    WRONG = "wrong"
    AWAY = "not reachable from here"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the page."""

    about: str
    health: Health
    said: str
    mend: str = ""
    """In one sentence; of what is fine although it is not reachable, why."""
    fine: bool = False

    @property
    def harms(self) -> bool:
        return self.health is not Health.OK and not self.fine


@dataclass(frozen=True, slots=True)
class Identity:
    """What a process of the shop is told of Keycloak, and where the shop is."""

    issuer: str
    token_url: str
    jwks_url: str
    audience: str
    edge: str
    etcd: str = ""
    """Empty: the services are not asked."""
    token: str = ""
    """Somebody's own; empty: one is fetched."""
    secret_file: Path | None = None
    """Of the client `order`. None: the token is that of `user`."""
    user: str = "ann"

    @property
    def inside(self) -> str:
        """The realm, as it is reached where tokens are fetched."""
        return self.token_url.removesuffix(f"/{TOKEN}")

    @property
    def has_a_wall(self) -> bool:
        """Whether Keycloak is fetched from by another name than the one in tokens."""
        return self.inside != self.issuer or not self.jwks_url.startswith(self.issuer)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A document, and what the one who gave it has for a clock."""

    content: Any
    ahead_s: float | None
    """Of our clock; None where it has no Date."""


async def fetched(http: httpx.AsyncClient, url: str) -> Fetched | str:
    """JSON and clock, or in words why there is none."""
    began = time.time()
    try:
        answer = await http.get(url)
        content = answer.raise_for_status().json()
    except httpx.HTTPStatusError as error:
        return f"answers {error.response.status_code}"
    except httpx.HTTPError as error:
        return in_words(error)
    except ValueError:
        return "answers with something else than JSON"
    return Fetched(content, _ahead_s(answer.headers.get("date", ""), (began + time.time()) / 2))


def _ahead_s(date: str, now: float) -> float | None:
    try:
        # Date has whole seconds: on average half a second has passed since.
        return parsedate_to_datetime(date).timestamp() + 0.5 - now
    except ValueError:
        return None


def in_words(error: httpx.HTTPError) -> str:
    """Why there was no answer."""
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {TIMEOUT_S:g} s"
    return f"no answer ({error})" if str(error) else "no answer"
