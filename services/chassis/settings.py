"""Where things are for this process: the SHOPMESH_* environment, read once."""

import ipaddress
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from services.failure import Failure

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""What this machine is called on itself."""


class CannotStart(Failure):
    """Why a process does not start; in the group that the tasks of one that starts may have made of it."""


def innermost(error: BaseException) -> BaseException:
    """The first one, out of the groups in which tasks have put it."""
    return innermost(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


class SettingInvalid(CannotStart):
    """A variable of the environment cannot mean anything; the text names it."""


class PasswordUnreadable(CannotStart):
    """There is no password to connect with: a reason not to start, and later an outage, as the file may come back."""


@dataclass(frozen=True, slots=True)
class PasswordFile:
    """A file with a password and nothing else. It is read for each connection, so that a new password is taken up."""

    variable: str
    """What said where it is."""
    path: Path

    def read(self) -> str:
        """Without the newline at its end. Raises PasswordUnreadable, which names the variable."""
        try:
            password = self.path.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise PasswordUnreadable(f"{self.variable}={self.path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise PasswordUnreadable(f"{self.variable}={self.path} is no UTF-8 text") from None
        if not password:
            raise PasswordUnreadable(f"{self.variable}={self.path} is empty")
        return password


@dataclass(frozen=True, slots=True)
class Settings:
    """One field per variable: `listen` is SHOPMESH_LISTEN. How things behave is configuration, in etcd."""

    service: str
    instance: str
    """Name of this process among those of its service."""
    version: str
    listen: str
    """`host:port` of the gRPC server; port 0 takes any."""
    advertise: str
    """`ip:port` or `ip` that others reach it by. Empty: what it is bound to; where that is every address of the
    machine (0.0.0.0), the one that leads to `mesh`.
    """
    etcd: tuple[str, ...]
    mesh: str
    """Envoy's listener by which services reach each other."""
    database_url: str
    database_password_file: PasswordFile | None
    """Of the user that the URL names. None: the server asks for none, or the URL has it."""
    nats_url: str
    nats_password_file: PasswordFile | None
    """Of the user that the URL names, in the same way."""
    issuer: str
    """What `iss` of a token must be. The two URLs are how this process reaches it."""
    jwks_url: str
    token_url: str
    audience: str
    client_id: str
    client_secret_file: Path | None
    smtp_url: str
    otlp_endpoint: str
    """Empty: nothing is exported."""
    otlp_logs: bool
    """Whether the lines of this process go there too, beside its stdout: where nobody reads its files."""
    metrics: str
    """`host:port` of a page with the metrics of this process. Empty: there is none."""
    state_dir: Path
    """Last good configurations, a file per process."""
    ads_listen: str
    edge_listen: str
    mesh_listen: str
    envoy_admin: str
    """`host:port` of Envoy's admin, for the control plane. Of several Envoys, a name that has the address of each.
    Empty: nobody tells of their breakers.
    """

    @classmethod
    def read(cls, service: str, environ: Mapping[str, str] = os.environ) -> Self:
        """Unset and empty variables have the defaults of a local stack. Raises SettingInvalid."""

        def value(name: str, default: str) -> str:
            return environ.get(f"SHOPMESH_{name}", "") or default

        def address(name: str, default: str) -> str:
            host_and_port(f"SHOPMESH_{name}", text := value(name, default))
            return text

        def password(name: str) -> PasswordFile | None:
            return PasswordFile(f"SHOPMESH_{name}", Path(text)) if (text := value(name, "")) else None

        issuer = value("ISSUER", "http://localhost:8180/realms/shop")
        secret = value("CLIENT_SECRET_FILE", "")
        return cls(
            service=service,
            instance=value("INSTANCE", f"{service}-{secrets.token_hex(4)}"),
            version=value("VERSION", metadata.version("shopmesh")),
            listen=address("LISTEN", "127.0.0.1:0"),
            advertise=_advertisable(value("ADVERTISE", "")),
            etcd=_members(value("ETCD", "127.0.0.1:2379")),
            mesh=address("MESH", "127.0.0.1:10000"),
            database_url=value("DATABASE_URL", f"postgresql://{service}@127.0.0.1:5433/{service}"),
            database_password_file=password("DATABASE_PASSWORD_FILE"),
            nats_url=value("NATS_URL", "nats://127.0.0.1:4222"),
            nats_password_file=password("NATS_PASSWORD_FILE"),
            issuer=issuer,
            jwks_url=value("JWKS_URL", f"{issuer}/protocol/openid-connect/certs"),
            token_url=value("TOKEN_URL", f"{issuer}/protocol/openid-connect/token"),
            audience=value("AUDIENCE", "shop-api"),
            client_id=value("CLIENT_ID", service),
            client_secret_file=Path(secret) if secret else None,
            smtp_url=value("SMTP_URL", "smtp://127.0.0.1:1025"),
            otlp_endpoint=value("OTLP_ENDPOINT", ""),
            otlp_logs=_is_true("SHOPMESH_OTLP_LOGS", value("OTLP_LOGS", "false")),
            metrics=address("METRICS", "") if value("METRICS", "") else "",
            state_dir=Path(value("STATE_DIR", ".shopmesh/last-good")),
            ads_listen=address("ADS_LISTEN", "127.0.0.1:18000"),
            edge_listen=address("EDGE_LISTEN", "127.0.0.1:8080"),
            mesh_listen=address("MESH_LISTEN", "127.0.0.1:10000"),
            envoy_admin=address("ENVOY_ADMIN", "") if value("ENVOY_ADMIN", "") else "",
        )

    @property
    def reports(self) -> bool:
        """Whether anybody wants to know what this process counts."""
        return bool(self.otlp_endpoint or self.metrics)

    def advertised(self, port: int) -> str:
        """`ip:port` to register for a server that is bound to `port`. Looks up names: raises OSError, may take long."""
        host, _ = host_and_port("SHOPMESH_LISTEN", self.listen)
        if not self.advertise:
            return joined(_own_ip(self.mesh, host) if _is_wildcard(host) else _ip_of(host), port)
        if _is_ip(self.advertise):
            return joined(self.advertise.removeprefix("[").removesuffix("]"), port)
        return self.advertise


def host_and_port(name: str, text: str) -> tuple[str, int]:
    """Splits `host:port`, IPv6 in brackets. Raises SettingInvalid, naming the variable."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise SettingInvalid(f"{name} must be host:port, not {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_true(name: str, text: str) -> bool:
    if text not in {"true", "false"}:
        raise SettingInvalid(f"{name} must be true or false, not {text!r}")
    return text == "true"


def target_of(endpoint: str) -> tuple[str, bool]:
    """Of an OTLP endpoint, `host:port` for gRPC, and whether it is encrypted.

    `https://` is; anything else is not, as in OpenTelemetry's own exporters.
    """
    parts = urlsplit(endpoint)
    return parts.netloc or endpoint, parts.scheme == "https"


def joined(ip: str, port: int) -> str:
    """`ip:port`, IPv6 in brackets."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _own_ip(mesh: str, listen: str) -> str:
    """The address of this machine by which it talks to `mesh`, `host:port`: nothing is sent."""
    there = host_and_port("SHOPMESH_MESH", mesh)
    which = socket.AF_UNSPEC if ":" in listen else socket.AF_INET  # `::` is every address of IPv4, too
    family, kind, _, _, address = socket.getaddrinfo(*there, family=which, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def _members(text: str) -> tuple[str, ...]:
    """Of etcd. gRPC takes several addresses, or one name, which may lead to several."""
    members = tuple(part.strip() for part in text.split(","))
    hosts = [host_and_port("SHOPMESH_ETCD", member)[0] for member in members]
    if len(members) > 1 and not all(map(_is_ip, hosts)):
        raise SettingInvalid(
            f"SHOPMESH_ETCD takes several ip:port, or one host:port whose name may lead to several, not {text!r}"
        )
    return members


def _advertisable(text: str) -> str:
    if text and not _is_ip(text) and not _is_ip(host_and_port("SHOPMESH_ADVERTISE", text)[0]):
        raise SettingInvalid(
            f"SHOPMESH_ADVERTISE must be ip:port or ip, not {text!r}: endpoint discovery takes no names"
        )
    return text


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _is_wildcard(host: str) -> bool:
    return _is_ip(host) and ipaddress.ip_address(host).is_unspecified


def _ip_of(host: str) -> str:
    return host if _is_ip(host) else str(socket.getaddrinfo(host, None)[0][4][0])
