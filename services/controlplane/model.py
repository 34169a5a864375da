"""Who runs where, and how calls are carried: what the control plane believes. Pure; the clock is an argument.

An endpoint that vanished may be dead, or etcd may have been stalled or wiped. So it is held, and leaves when

| its record | because |
|---|---|
| was DRAINING | it said goodbye |
| is put again under the same name | the new one replaces it |
| has the address of another record | the address is taken |
| vanished, and since then its service has had a registration for one lease ttl | it would be back by now |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from mesh.v1 import policy_pb2

LEASE_TTL_S = 10.0
"""How long a registration outlives its process; services/chassis/registry uses the same figure."""


class State(Enum):
    """Whether an instance takes new calls."""

    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """Which instance of which service."""

    service: str
    instance: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an instance listens (`ip:port`), and whether it takes calls."""

    address: str
    state: State = State.READY
    version: str = ""
    start_time: float = 0.0
    """Unix seconds; of two records with one address the later start is believed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that etcd says at one moment, bad documents left out. Policies are whole: seeds merged in."""

    endpoints: Mapping[Name, Endpoint] = field(default_factory=dict)
    policies: Mapping[str, policy_pb2.Policy] = field(default_factory=dict)
    sampling: Mapping[str, float] = field(default_factory=dict)
    """Percent of traces that are recorded, per service."""


@dataclass(frozen=True, slots=True)
class Model:
    """What was seen last, and the endpoints that are held beyond it."""

    seen: Seen = field(default_factory=Seen)
    lost: Mapping[Name, tuple[Endpoint, float]] = field(default_factory=dict)
    """Endpoints that vanished without DRAINING, and when."""
    registered_since: Mapping[str, float] = field(default_factory=dict)
    """Since when a service has had at least one registration, without a break."""

    @classmethod
    def restored(cls, seen: Seen, at: float) -> "Model":
        """After a restart: everything that was known counts as lost now, until it is seen again."""
        ready = {name: (endpoint, at) for name, endpoint in seen.endpoints.items() if endpoint.state is State.READY}
        return cls(replace(seen, endpoints={}), ready, {})

    def see(self, seen: Seen, at: float) -> "Model":
        """The model after etcd has been seen to say `seen` at `at` (seconds of a monotonic clock)."""
        vanished = {
            name: (endpoint, at)
            for name, endpoint in self.endpoints.items()
            if name in self.seen.endpoints and name not in seen.endpoints and endpoint.state is State.READY
        }
        services = {name.service for name in seen.endpoints}
        registered_since = {service: self.registered_since.get(service, at) for service in services}
        held = {name: lost for name, lost in (dict(self.lost) | vanished).items() if name not in seen.endpoints}
        return Model(seen, held, registered_since).settled(at)

    def settled(self, at: float) -> "Model":
        """Without the held endpoints whose time is over, or whose address has a new owner."""
        taken = {endpoint.address for endpoint in self.seen.endpoints.values()}
        kept = {
            name: (endpoint, since)
            for name, (endpoint, since) in self.lost.items()
            if endpoint.address not in taken and self._leaves_at(name, since) > at
        }
        return self if len(kept) == len(self.lost) else replace(self, lost=kept)

    @property
    def next_change(self) -> float | None:
        """When `settled` will let go of an endpoint next, if nothing else happens."""
        due = min((self._leaves_at(name, since) for name, (_, since) in self.lost.items()), default=_NEVER)
        return None if due == _NEVER else due

    def _leaves_at(self, name: Name, lost_at: float) -> float:
        registered_since = self.registered_since.get(name.service)
        return _NEVER if registered_since is None else max(lost_at, registered_since) + LEASE_TTL_S

    @property
    def endpoints(self) -> Mapping[Name, Endpoint]:
        """Seen and held, each address once, sorted by name."""
        held = {name: endpoint for name, (endpoint, _) in self.lost.items()}
        owner: dict[str, Name] = {}
        together = held | dict(self.seen.endpoints)
        for name in sorted(together, key=lambda name: (together[name].start_time, name)):
            owner[together[name].address] = name
        return {name: together[name] for name in sorted(owner.values())}

    @property
    def remembered(self) -> Seen:
        """What a restart needs: held endpoints are held across it."""
        return replace(self.seen, endpoints=self.endpoints)

    def of(self, service: str) -> Mapping[str, Endpoint]:
        """The endpoints of a service by instance."""
        return {name.instance: endpoint for name, endpoint in self.endpoints.items() if name.service == service}

    def ready(self, service: str) -> bool:
        """Whether an instance of the service takes calls, as far as etcd knows."""
        return any(endpoint.state is State.READY for endpoint in self.of(service).values())


_NEVER = float("inf")
