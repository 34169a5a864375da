"""From one canary to another without losing a call: first the new clusters, then the routes, then the old ones go.

Envoy takes a cluster into use when it has its instances and their first health checks, and refuses calls whose route
names one that is not in use, or no more (xDS: make before break). It acknowledges a cluster long before, so each step
waits for a fixed time. A change that needs no new cluster, such as other weights, is carried by its routes at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mesh.v1 import policy_pb2

from services.controlplane.model import differing
from services.controlplane.resources.versions import versions_of

STEP_S = 2.0


@dataclass(frozen=True, slots=True)
class _Standing:
    """How far a service is: its routes go by `routed`, and in the end by `wanted`."""

    routed: policy_pb2.Canary
    wanted: policy_pb2.Canary
    clusters: frozenset[str]
    since: float

    @property
    def moves(self) -> bool:
        return self.routed != self.wanted or self.clusters != frozenset(versions_of(self.wanted))

    def towards(self, wanted: policy_pb2.Canary, at: float) -> "_Standing":
        if wanted != self.wanted:
            waits, new = self.routed != self.wanted, frozenset(versions_of(wanted))
            if not new <= self.clusters:
                return _Standing(self.routed, wanted, self.clusters | new, at)
            return replace(self, wanted=wanted) if waits else _Standing(wanted, wanted, self.clusters, at)
        if not self.moves or at < self.since + STEP_S:
            return self
        if self.routed != wanted:
            return _Standing(wanted, wanted, self.clusters, at)
        return replace(self, clusters=frozenset(versions_of(wanted)))

    def told(self, policy: policy_pb2.Policy) -> policy_pb2.Policy:
        """A version without a weight has its cluster, and no calls."""
        if not self.moves:
            return policy
        result = policy_pb2.Policy()
        result.CopyFrom(policy)
        result.canary.CopyFrom(self.routed)
        for version in sorted(self.clusters.difference(versions_of(self.routed))):
            result.canary.weights.add(version=version, weight=0)
        return result


@dataclass(slots=True)
class Moves:
    """Where each service stands."""

    _wanted: Mapping[str, policy_pb2.Policy] = field(default_factory=dict)
    _standing: dict[str, _Standing] = field(default_factory=dict)
    _told: dict[str, policy_pb2.Policy] = field(default_factory=dict)

    def told(self, wanted: Mapping[str, policy_pb2.Policy], at: float) -> Mapping[str, policy_pb2.Policy]:
        """The policies that Envoy is told now, on the way to those that are wanted; what stays is the same object."""
        moving = {service for service, standing in self._standing.items() if standing.moves}
        for service in differing(self._wanted, wanted) | moving:
            if (policy := wanted.get(service)) is None:
                continue
            before = self._standing.get(service)
            now = (
                _Standing(policy.canary, policy.canary, frozenset(versions_of(policy.canary)), at)
                if before is None
                else before.towards(policy.canary, at)
            )
            if before != now or self._wanted.get(service) is not policy:
                self._standing[service], self._told[service] = now, now.told(policy)
        self._wanted = wanted
        return dict(self._told)

    @property
    def next_change(self) -> float | None:
        """When `told` has the next step to tell."""
        return min((each.since + STEP_S for each in self._standing.values() if each.moves), default=None)
