"""One shop, wired three times: by `make run`, by compose.yaml, by the manifests. Each as the same kind of data."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.composed import environment, resolved
from deploy.manifests import Found, Kustomization
from services.chassis.settings import Settings
from services.cli.local.stack import Stack
from services.cli.settings import PORTS
from services.telemetry.__main__ import Places
from tests.support.surroundings import CHECKOUT, PREFIX

type Document = Mapping[str, Any]

KUBERNETES = CHECKOUT / "deploy" / "kubernetes"
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()
COMPOSE: Document = yaml.load((CHECKOUT / "compose.yaml").read_text(), yaml.CSafeLoader)
DEMO = Kustomization.read(KUBERNETES / "overlays" / "demo")
NATS: Document = yaml.load((KUBERNETES / "infrastructure" / "nats.values.yaml").read_text(), yaml.CSafeLoader)

IMAGE = dict(re.findall(r"(SHOPMESH_\w+)=(\S+)", DOCKERFILE))
"""The environment that our image has by itself."""
SERVED_BY = {
    "etcd": ("etcd",),
    "nats": ("nats",),
    "postgres": ("postgres",), "postgres-rw": ("postgres",),
    "keycloak": ("keycloak",), "keycloak-service": ("keycloak",),
    "mailpit": ("smtp", "mail"), "mail": ("smtp", "mail"),
    "telemetry": ("otlp", "otlp-http", "telemetry"),
    "controlplane": ("ads",),
    "envoy": ("edge", "mesh", "envoy-admin"), "envoy-admin": ("envoy-admin",),
}  # fmt: skip
"""Names by which a part is reached in containers, and which ports of the local table it has."""
INSIDE = {**PORTS, "postgres": 5432, "keycloak": 8080}
"""The same ports as they are in containers, where nobody is in the way."""
OUTSIDE = "https://id.shop.example.com"
"""Keycloak, as browsers reach it in a cluster."""
POD_IP = "10.0.0.1"
"""In place of what a pod is told of itself."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is told to one part of a shop, and about it."""

    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    needs: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    image: str = ""
    memory: int = 0
    """Bytes at the most."""
    ports: frozenset[int] = frozenset()


def local() -> dict[str, Part]:
    """As the launcher starts it; nothing of the tests' own environment."""
    with pytest.MonkeyPatch.context() as patched:
        for name in os.environ:
            if name.startswith(PREFIX):
                patched.delenv(name)
        processes = Stack(Path("/state"), PORTS, {}).processes()
    return {
        process.name: Part(
            _ours(process.environment), frozenset(process.needs), ports=frozenset(PORTS[port] for port in process.ports)
        )
        for process in processes
    }


def composed() -> dict[str, Part]:
    """Without the profiles."""
    return {
        name: Part(
            {
                name: resolved(value)
                for name, value in {
                    **(IMAGE if "shopmesh:" in service["image"] else {}),
                    **environment(service),
                }.items()
            },
            frozenset(service.get("depends_on", ())),
            frozenset(service.get("networks", ())),
            resolved(service["image"]),
            _bytes(service["mem_limit"]),
            frozenset(int(port.rpartition(":")[2]) for port in service.get("ports", ())),
        )
        for name, service in COMPOSE["services"].items()
        if "profiles" not in service
    }


def in_kubernetes() -> dict[str, Part]:
    """With the patches that every process and every service has, as kustomize lays them."""
    parts = {found.name: _of_a_pod(found) for found in DEMO.resources if found.pod}
    for found in DEMO.resources:
        spec = found.document.get("spec", {})
        if found.kind == "Cluster":
            parts[found.name] = Part(
                image=spec["imageName"], memory=_of(spec), networks=_members(spec["inheritedMetadata"])
            )
        if found.kind == "Keycloak":
            told = spec["unsupported"]["podTemplate"]["metadata"]
            parts[found.name] = Part(image=spec["image"], memory=_of(spec), networks=_members(told))
    container = NATS["container"]
    parts["nats"] = Part(
        image=f"nats:{container['image']['tag']}",
        memory=_of(container["merge"]),
        networks=_members(NATS["podTemplate"]["merge"]["metadata"]),
    )
    return parts


def settings() -> dict[str, str]:
    """The ConfigMap that every process reads."""
    lines = (KUBERNETES / "base" / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def effective(process: str, part: Part, *, here: bool) -> dict[str, object]:
    """What a process makes of its environment: the fields of its settings, each with whom it leads to.

    In a container 127.0.0.1 leads to nobody; `here`, where all run beside each other, to everybody.
    """
    read = asdict(Settings.read(process, part.environment))
    if process == "telemetry":
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(os, "environ", part.environment)
            places = Places.read()
        read |= {name: getattr(places, name) for name in ("otlp", "otlp_http", "pages", "postgres")}
    everybody = {"localhost", "0.0.0.0", *(["127.0.0.1"] if here else [])}
    return {name: _led(value, everybody) for name, value in read.items()}


def _led(value: object, everybody: set[str]) -> object:
    """Addresses as `<port of the table>`, whichever name and number they have there."""
    match value:
        case (str() as host, int() as port):
            return _led(f"{host}:{port}", everybody)
        case tuple():
            return {_led(each, everybody) for each in value}
    text = str(value).replace(OUTSIDE, f"http://localhost:{PORTS['keycloak']}")
    return re.sub(r"([\w.-]+):(\d+)", lambda found: _place(found, everybody), text)


def _place(found: re.Match[str], everybody: set[str]) -> str:
    host, port = found[1].partition(".")[2] or found[1], int(found[2])
    if found[1] in everybody:
        return next((f"<{name}>" for name, number in PORTS.items() if number == port), found[0])
    for name in SERVED_BY.get(host, ()):
        if INSIDE[name] == port:
            return f"<{name}>"
    return found[0]


def _of_a_pod(found: Found) -> Part:
    patched = [found, *(patch.found for patch in DEMO.patches if patch.hits(found))]
    containers = [one.containers[-1] for one in patched]
    told: dict[str, str] = {}
    if containers[0].get("image", "shopmesh") == "shopmesh":
        told = {**IMAGE, **settings()}
    for container in containers:
        told |= {each["name"]: each.get("value", POD_IP) for each in container.get("env", ())}
    return Part(
        told,
        networks=_members(found.pod["metadata"] if found.pod else {}),
        image=next(each["image"] for each in containers if "image" in each),
        memory=_of(containers[0]),
        ports=frozenset(port["containerPort"] for each in containers for port in each.get("ports", ())),
    )


def _members(metadata: Document) -> frozenset[str]:
    return frozenset(name.rpartition("/")[2] for name in metadata["labels"] if name.startswith("shopmesh.network/"))


def _ours(told: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in told.items() if name.startswith(PREFIX)}


def _of(having: Document) -> int:
    return _bytes(having["resources"]["limits"]["memory"])


def _bytes(text: str) -> int:
    """Of `256m` (compose) and `256Mi` (Kubernetes), which mean the same."""
    found = re.fullmatch(r"(\d+)([mg]|Mi|Gi)", text)
    assert found, text
    return int(found[1]) << (20 if found[2][0] in "mM" else 30)


def every(names: Iterable[str], parts: Mapping[str, Part]) -> set[str]:
    """What these need, and what that needs, and so on."""
    found = set(names)
    while more := {need for name in found for need in parts[name].needs} - found:
        found |= more
    return found
