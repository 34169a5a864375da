"""Where the things are that Envoy needs beside the services."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class HostPort:
    """An address to bind or to call."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `host:port`; IPv6 in brackets. Raises ValueError."""
        parts = urlsplit(f"//{text}")
        if not parts.hostname or parts.port is None:
            raise ValueError(f"not host:port: {text!r}")
        return cls(parts.hostname, parts.port)


@dataclass(frozen=True, slots=True)
class Server:
    """An HTTP server, as a URL names it."""

    at: HostPort
    tls: bool

    @classmethod
    def of(cls, url: str) -> Self:
        """From `http://host[:port]/...` or `https://...`. Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"not an http or https URL: {url!r}")
        tls = parts.scheme == "https"
        return cls(HostPort(parts.hostname, parts.port or (443 if tls else 80)), tls)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What does not change while the control plane runs."""

    edge: HostPort
    """What the edge listener binds."""
    mesh: HostPort
    """What the mesh listener binds."""
    issuer: str
    audience: str
    jwks_url: str
    otlp_endpoint: str | None = None
    """Where Envoy sends its spans; without it trace ids flow all the same."""
    otlp_lines: bool = False
    """Whether it sends a line about each call there as well."""
