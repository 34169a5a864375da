"""Everything that Envoy is told at one moment, with versions. Pure."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache


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


type Bodies = Mapping[str, bytes]
type Versions = Mapping[str, int]
"""By name of the resource."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Resources by kind and name, each with a version of its own.

    A version is the hash of the content, so any control plane can go on where another stopped. That of an assignment is
    also that of the clusters that need it: whatever sends a cluster again sends its assignment again, for which Envoy
    waits before it uses the cluster (xDS: resource warming).
    """

    bodies: Mapping[Kind, Bodies]
    versions: Mapping[Kind, Versions]
    _needs: Mapping[tuple[Kind, str], frozenset[tuple[Kind, str]]]

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> "Snapshot":
        """Raises Inconsistent, naming the first reference that leads nowhere."""
        return cls({kind: {} for kind in Kind}, {kind: {} for kind in Kind}, {}).with_(resources)

    def with_(self, resources: Iterable[Resource], instead_of: Iterable[Resource] = ()) -> "Snapshot":
        """With these, instead of those. A cluster comes together with the assignments that it needs.

        Takes as long as what changes is large. Raises Inconsistent.
        """
        new = sorted(resources, key=lambda resource: (resource.kind.value, resource.name))
        gone = {(one.kind, one.name) for one in instead_of} - {(one.kind, one.name) for one in new}
        touched = {one.kind for one in new} | {kind for kind, _ in gone}
        bodies = {kind: dict(self.bodies[kind]) for kind in touched}
        versions = {kind: dict(self.versions[kind]) for kind in touched}
        needs = dict(self._needs)
        clusters = defaultdict[tuple[Kind, str], list[bytes]](list)
        for cluster in new:
            for needed in cluster.needs if cluster.kind is Kind.CLUSTER else ():
                clusters[needed].append(cluster.body)
        for kind, name in gone:
            del bodies[kind][name], versions[kind][name], needs[kind, name]
        for one in new:
            bodies[one.kind][one.name] = one.body
            versions[one.kind][one.name] = _version(one, clusters[one.kind, one.name])
            needs[one.kind, one.name] = one.needs
        for kind, name in needs if gone else [(one.kind, one.name) for one in new]:
            for other, missing in sorted(needs[kind, name] - needs.keys(), key=str):
                raise Inconsistent(f"{kind.name} {name} needs {other.name} {missing}")
        return Snapshot({**self.bodies, **bodies}, {**self.versions, **versions}, needs)


@lru_cache(maxsize=4)  # every stream asks the same
def differences(before: Snapshot, after: Snapshot) -> Mapping[Kind, Collection[str]]:
    """Names of what was added, changed or taken away."""
    found: dict[Kind, Collection[str]] = {}
    for kind in Kind:
        old, new = before.versions[kind], after.versions[kind]
        found[kind] = () if old is new else {name for name, _ in old.items() ^ new.items()}
    return found


def version(of: Iterable[int]) -> str:
    """One version of many resources, whatever their order."""
    return f"{sum(of) % 2**64:016x}"


def _version(resource: Resource, followed: Iterable[bytes]) -> int:
    content = hashlib.sha256()
    for part in (resource.name.encode(), resource.body, *followed):
        content.update(b"%d\0" % len(part))
        content.update(part)
    return int.from_bytes(content.digest()[:8])
