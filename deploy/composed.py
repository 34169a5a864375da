"""What the schema of compose files cannot say: names that lead nowhere, and what we promise of ours."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

type Document = Mapping[str, Any]

PUBLISHED = re.compile(r"\$\{SHOPMESH_PUBLIC:-127\.0\.0\.1\}:\$\{SHOPMESH_PORT_[A-Z_]+:-\d+\}:\d+")
"""On this machine only unless SHOPMESH_PUBLIC says otherwise, and movable."""
EXACT = re.compile(r"[^:@]+(?:/[^:@]+)*:(?!latest$)v?\d+\.\d+(?:\.\d+)?[\w.-]*")
SECRET = re.compile(r"(PASSWORD|SECRET|TOKEN|KEY)$")


def faults(document: Document) -> Iterator[str]:
    """Of one compose file."""
    if "name" in document:
        yield "name: Compose 1.29 refuses it: the folder or -p names the project"
    services: Mapping[str, Document] = document["services"]
    for name, service in services.items():
        for fault in (*_leads_nowhere(service, services, document), *_breaks_a_promise(service)):
            yield f"services.{name}: {fault}"
    for kind in ("networks", "volumes"):
        used = {_source(each) for service in services.values() for each in service.get(kind, ())}
        for spare in document.get(kind, {}).keys() - used:
            yield f"{kind}.{spare}: nobody uses it"


def _leads_nowhere(service: Document, services: Mapping[str, Document], document: Document) -> Iterator[str]:
    for other, when in service.get("depends_on", {}).items():
        if other not in services:
            yield f"depends_on: there is no service {other}"
        elif when["condition"] == "service_healthy" and not healthy(services[other]):
            yield f"depends_on: {other} has no healthcheck"
    for network in service.get("networks", ()):
        if network not in document.get("networks", {}):
            yield f"networks: there is no network {network}"
    for volume in map(_source, service.get("volumes", ())):
        if volume and not volume.startswith((".", "/", "$")) and volume not in document.get("volumes", {}):
            yield f"volumes: there is no volume {volume}"


def _breaks_a_promise(service: Document) -> Iterator[str]:
    if not EXACT.fullmatch(image := resolved(service.get("image", ""))):
        yield f"image: {image or 'none'} is no exact version"
    for port in service.get("ports", ()):
        if not PUBLISHED.fullmatch(str(port)):
            yield f"ports: {port} is not ${{SHOPMESH_PUBLIC:-127.0.0.1}}:${{SHOPMESH_PORT_<NAME>:-<port>}}:<port>"
    for variable in environment(service):
        if SECRET.search(variable):
            yield f"environment: {variable} looks like a secret: give a file"


def environment(service: Document) -> dict[str, str]:
    """The variables of a service; one that is only named has the value of whoever starts it."""
    told = service.get("environment", {})
    if isinstance(told, Mapping):
        return {name: "" if value is None else str(value) for name, value in told.items()}
    return dict(each.partition("=")[::2] for each in told)


def healthy(service: Document) -> bool:
    """Whether anybody looks after it: a check of its own, or that of our image."""
    return "healthcheck" in service or "build" in service or "shopmesh" in service.get("image", "")


def resolved(text: str) -> str:
    """With every `${NAME:-default}` as where nothing is set."""
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text)


def _source(volume: object) -> str:
    if isinstance(volume, Mapping):
        return str(volume.get("source", ""))
    return str(volume).partition(":")[0]
