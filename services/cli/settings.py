"""What every part of the local stack must agree on: names, ports, the state folder."""

import os
from pathlib import Path

from services.failure import Failure

HOST = "127.0.0.1"
SERVICES = ("product", "order", "inventory", "notification")
ENDPOINTS = "/shop/endpoints/"
"""Of etcd's keys, where instances register: <service>/<instance> behind it."""
AUDIT = "audit"
"""The role that only looks."""

PORTS = {
    "edge": 8080,
    "mesh": 10000,
    "envoy-admin": 9901,
    "ads": 18000,
    "keycloak": 8180,
    "keycloak-management": 9000,
    "postgres": 5433,
    "etcd": 2379,
    "etcd-peer": 2380,
    "nats": 4222,
    "smtp": 1025,
    "mail": 8025,
    "otlp": 4317,
    "otlp-http": 4318,
    "telemetry": 8026,
}
"""Every port of a stack, all bound to 127.0.0.1; the services themselves take any free one."""

STATE_VARIABLE = "SHOPMESH_STATE"


def variable(port: str) -> str:
    """The environment variable that moves a port."""
    return f"SHOPMESH_PORT_{port.upper().replace('-', '_')}"


def chosen_ports(first: int | None) -> dict[str, int]:
    """The table, or consecutive ports from `first`; a variable SHOPMESH_PORT_<NAME> beats both.

    Raises Failure for what is no port.
    """
    ports = {name: port if first is None else first + at for at, (name, port) in enumerate(PORTS.items())}
    for name in ports:
        if text := os.environ.get(variable(name)):
            if not text.isdigit() or not 0 < int(text) < 65536:
                raise Failure(f"{variable(name)}={text} is no port: give a number from 1 to 65535")
            ports[name] = int(text)
    twice = [name for name, port in ports.items() if list(ports.values()).count(port) > 1]
    if twice:
        raise Failure(f"{' and '.join(twice)} have the same port {ports[twice[0]]}: move one with {variable(twice[0])}")
    return ports


def default_state() -> Path:
    """`.shopmesh` of this checkout, so that the command works from any folder in it."""
    checkout = Path(__file__).parents[2]
    return (checkout if (checkout / "Makefile").exists() else Path.cwd()) / ".shopmesh"


def shown(path: Path) -> str:
    """As a person in the present folder would write it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
