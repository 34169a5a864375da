"""Where one shop is, for the commands that talk to it: as its state folder tells, or as the environment does.

The launcher writes a folder. Where something else runs the shop, SHOPMESH_EDGE is set, and the other variables beside
it: docs/containers.md has them.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from services.cli.local.state import StateFolder
from services.cli.settings import HOST
from services.failure import Failure

if TYPE_CHECKING:
    from services.chassis.settings import PasswordFile

EDGE, OTLP_ENDPOINT, SECRETS = "SHOPMESH_EDGE", "SHOPMESH_OTLP_ENDPOINT", "SHOPMESH_SECRETS"
_VARIABLES = (
    EDGE, "SHOPMESH_MESH", "SHOPMESH_ETCD", "SHOPMESH_ENVOY_ADMIN", "SHOPMESH_POSTGRES", "SHOPMESH_NATS_URL",
    "SHOPMESH_MAIL", "SHOPMESH_TELEMETRY", "SHOPMESH_ISSUER", "SHOPMESH_TOKEN_URL", OTLP_ENDPOINT,
    "SHOPMESH_TELEMETRY_PAGE", "SHOPMESH_MAIL_PAGE",
)  # fmt: skip
"""Each tells the place of its name."""


TOKEN = "protocol/openid-connect/token"  # noqa: S105  a path
CERTS = "protocol/openid-connect/certs"
"""Keycloak's, below the URL of a realm."""


class _Place:
    """A field of Places. Asking for what nobody has told raises Failure, which names the mend."""

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, places: "Places", _: type) -> str:
        if at := places.known.get(self._name):
            return at
        if places.folder:
            raise Failure(f"the shop was started by a version without {self._name}: start it again")
        raise Failure(
            f"{EDGE} names a shop elsewhere, and SHOPMESH_{self._name.upper()} is to say more of it: set it too"
        )


@dataclass(frozen=True, slots=True)
class Places:
    """The addresses of one shop, all `host:port` where nothing else is said."""

    known: Mapping[str, str]
    folder: StateFolder | None = None
    """Of the launcher that runs it on this machine; None when something else runs it."""
    secrets: Path | None = None
    """A folder per role, with the files database-password and nats-password. None: nobody is asked for a password."""

    edge = _Place()
    mesh = _Place()
    etcd = _Place()
    envoy_admin = _Place()
    postgres = _Place()
    nats_url = _Place()
    mail = _Place()
    telemetry = _Place()
    issuer = _Place()

    @classmethod
    def of_folder(cls, folder: StateFolder) -> Self:
        """Raises Failure when no shop runs there."""
        known = {name.replace("-", "_"): f"{HOST}:{port}" for name, port in folder.ports().items()}
        urls = {
            "nats_url": f"nats://{known.get('nats')}",
            "issuer": folder.read().get("issuer", ""),
            "otlp_endpoint": os.environ.get(OTLP_ENDPOINT) or f"http://{known.get('otlp')}",
        }
        return cls({**known, **urls}, folder)

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """What is not said is missed by who asks for it."""
        secrets = environ.get(SECRETS)
        known = {name.removeprefix("SHOPMESH_").lower(): environ.get(name, "") for name in _VARIABLES}
        return cls(known, None, Path(secrets) if secrets else None)

    @classmethod
    def of_target(cls, target: str, issuer: str | None) -> Self:
        """Another shop, by the `host:port` of its edge and who issues its tokens; the environment may tell more.

        Raises Failure for what is no address.
        """
        from services.chassis.settings import host_and_port

        host_and_port("--target", target)
        told = cls.of_environment()
        issuer = issuer or told.known["issuer"] or "http://localhost:8180/realms/shop"
        known = {"edge": target, "issuer": issuer, "etcd": told.known["etcd"], "token_url": told.known["token_url"]}
        return cls(known, secrets=told.secrets)

    @property
    def token_url(self) -> str:
        """Where tokens are had, which is not always where the issuer is: its name may be that for browsers."""
        return self.known.get("token_url") or token_url(self.issuer)

    @property
    def otlp_endpoint(self) -> str:
        """Where spans go; empty: nowhere."""
        return self.known.get("otlp_endpoint", "")

    @property
    def telemetry_page(self) -> str:
        """The URL that a person opens, which is not always how this process reaches it."""
        return self.known.get("telemetry_page") or f"http://{self.telemetry}"

    @property
    def mail_page(self) -> str:
        """The same of the mails."""
        return self.known.get("mail_page") or f"http://{self.mail}"

    def database(self, service: str, role: str = "audit") -> str:
        """The URL of the database of a service, for a role, with its password where it has one."""
        file = self.password(role, "database")
        secret = f":{quote(file.read(), safe='')}" if file else ""
        return f"postgresql://{role}{secret}@{self.postgres}/{service}"

    def databases(self) -> dict[str, str]:
        """The URLs of those that know orders, by service, for the role `audit`."""
        return {service: self.database(service) for service in ("order", "inventory", "notification")}

    def password(self, role: str, store: str) -> "PasswordFile | None":
        """Of a role in `database` or `nats`; None where it needs none. Raises Failure for what cannot be read."""
        from services.chassis.settings import PasswordFile

        if self.secrets is None:
            return None
        file = PasswordFile(SECRETS, self.secrets / role / f"{store}-password")
        file.read()
        return file

    def envoys(self) -> list[str]:
        """`ip:port` of the admin page of each Envoy; none when none runs, or nobody has told where."""
        if self.folder and not any(part["name"] == "envoy" for part in self.folder.read()["parts"]):
            return []
        return every(self.known.get("envoy_admin", ""))


def places_of(state: Path) -> Places:
    """Those of the environment where SHOPMESH_EDGE is set, else of the shop that runs in the folder.

    Raises Failure when none does.
    """
    return Places.of_environment() if is_elsewhere() else Places.of_folder(StateFolder(state.absolute()))


def token_url(issuer: str) -> str:
    """Where Keycloak gives tokens of an issuer, unless it is reached by another name."""
    return f"{issuer}/{TOKEN}"


def keys_url(tokens: str) -> str:
    """Where the Keycloak that gives tokens at that URL has the keys that they are signed with."""
    return f"{tokens.removesuffix(TOKEN)}{CERTS}"


def is_elsewhere() -> bool:
    """Whether the environment names a shop that something else than our launcher runs."""
    return bool(os.environ.get(EDGE))


def launched(state: Path, instead: str) -> StateFolder:
    """The folder, for what only the launcher can do. Raises Failure with who does it where that does not run."""
    if is_elsewhere():
        raise Failure(f"the shop of {EDGE} was not started by this command: {instead}")
    return StateFolder(state.absolute())


def every(address: str) -> list[str]:
    """`ip:port` of each host that is meant by `host:port`; as it is when it means none."""
    host, _, port = address.rpartition(":")
    if not host:
        return []
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        return [address]
    ips = dict.fromkeys(str(at[0]) for *_, at in found)
    return [f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in sorted(ips)]
