"""Everything that Envoy is told at one moment, with versions. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """The types of resources that are served, in the order in which changes are sent (xDS: eventual consistency)."""

    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ASSIGNMENT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
    ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


@dataclass(frozen=True, slots=True)
class Resource:
    """One encoded resource, and what must be served beside it."""

    kind: Kind
    name: str
    body: bytes
    needs: frozenset[tuple[Kind, str]] = frozenset()


class Inconsistent(Exception):
    """A resource refers to one that is not served; Envoy would refuse it or wait for it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Resources by kind and name.

    A version is the hash of its kind's content, so any control plane can go on where another stopped.
    """

    resources: Mapping[Kind, Mapping[str, bytes]]
    versions: Mapping[Kind, str]

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> "Snapshot":
        """Raises Inconsistent, naming the first reference that leads nowhere."""
        together = sorted(resources, key=lambda resource: resource.name)
        served = {(resource.kind, resource.name) for resource in together}
        for resource in together:
            for kind, name in sorted(resource.needs - served, key=str):
                raise Inconsistent(f"{resource.kind.name} {resource.name} needs {kind.name} {name}")
        by_kind = {kind: {one.name: one.body for one in together if one.kind is kind} for kind in Kind}
        return cls(by_kind, {kind: _version(bodies) for kind, bodies in by_kind.items()})


def _version(bodies: Mapping[str, bytes]) -> str:
    content = hashlib.sha256()
    for name, body in bodies.items():
        content.update(f"{name}\0{len(body)}\0".encode())
        content.update(body)
    return content.hexdigest()[:16]
