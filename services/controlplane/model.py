"""Who runs where, and how calls are carried: what the control plane believes. Pure; the clock is an argument.

An endpoint that vanished may be dead, or etcd may have been stalled or wiped. So it is held, and leaves when

| its record | because |
|---|---|
| was DRAINING | it said goodbye |
| is put again under the same name | the new one replaces it |
| has the address of another record | the address is taken |
| has an older one under its name, of a snapshot that was restored, for one lease ttl | it would be back by now |
| vanished, and since then its service has had a registration for one lease ttl | it would be back by now |

Whatever did not change is the same object as before, service by service: what is made of a model is made anew only for
the services that differ, and one change costs the same among four services as among five hundred.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
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
    """Unix seconds; of two records with one address, or under one name, the later start is believed."""


type Instances = Mapping[str, Endpoint]
"""By name of the instance."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that etcd says at one moment, bad documents left out. Policies are whole: seeds merged in."""

    endpoints: Mapping[str, Instances] = field(default_factory=dict)
    policies: Mapping[str, policy_pb2.Policy] = field(default_factory=dict)
    sampling: Mapping[str, float] = field(default_factory=dict)
    """Percent of traces that are recorded, per service."""


def differing[T](before: Mapping[str, T], after: Mapping[str, T]) -> set[str]:
    """The keys that have not the same value; quick where the values are the same objects."""
    changed = {key for key, value in after.items() if (old := before.get(key)) is not value and old != value}
    return changed | (before.keys() - after.keys())


@dataclass(frozen=True, slots=True)
class Model:
    """What was seen last, and the endpoints that are held beyond it."""

    seen: Seen = field(default_factory=Seen)
    lost: Mapping[Name, tuple[Endpoint, float]] = field(default_factory=dict)
    """Endpoints that vanished without DRAINING, or went back in time, and when."""
    registered_since: Mapping[str, float] = field(default_factory=dict)
    """Since when a service has had at least one registration, without a break."""
    endpoints: Mapping[str, Instances] = field(default_factory=dict)
    """Seen and held, each address once, by service and sorted instance."""
    _records: Mapping[str, Instances] = field(default_factory=dict)
    """The same with all that claim an address."""
    _claims: Mapping[str, frozenset[Name]] = field(default_factory=dict)
    """Who claims an address."""

    @classmethod
    def restored(cls, seen: Seen, at: float) -> "Model":
        """After a restart: everything that was known counts as lost now, until it is seen again."""
        lost = {
            Name(service, instance): (endpoint, at)
            for service, instances in seen.endpoints.items()
            for instance, endpoint in instances.items()
            if endpoint.state is State.READY
        }
        return cls()._with(replace(seen, endpoints={}), lost, {}, {name.service for name in lost})

    def see(self, seen: Seen, at: float) -> "Model":
        """The model after etcd has been seen to say `seen` at `at` (seconds of a monotonic clock)."""
        changed = differing(self.seen.endpoints, seen.endpoints)
        lost, registered_since = dict(self.lost), dict(self.registered_since)
        for service in changed:
            now = seen.endpoints.get(service, _NOBODY)
            for instance in self.seen.endpoints.get(service, _NOBODY).keys() - now.keys():
                endpoint = self.of(service).get(instance)
                if endpoint is not None and endpoint.state is State.READY:
                    lost[Name(service, instance)] = (endpoint, at)
            for instance, endpoint in now.items():
                known = self.of(service).get(instance)
                if known and known.state is State.READY and endpoint.start_time < known.start_time:
                    lost.setdefault(Name(service, instance), (known, at))
                else:
                    lost.pop(Name(service, instance), None)
            if now:
                registered_since.setdefault(service, at)
            else:
                registered_since.pop(service, None)
        return self._with(seen, lost, registered_since, changed).settled(at)

    def settled(self, at: float) -> "Model":
        """Without the held endpoints whose time is over, or whose address has a new owner."""
        left = {
            name
            for name, (endpoint, since) in self.lost.items()
            if self._leaves_at(name, since) <= at or self._taken(endpoint.address)
        }
        if not left:
            return self
        kept = {name: held for name, held in self.lost.items() if name not in left}
        # Who is believed instead may have the address of one that is held, so that this one leaves as well.
        return self._with(self.seen, kept, self.registered_since, {name.service for name in left}).settled(at)

    @property
    def next_change(self) -> float | None:
        """When `settled` will let go of an endpoint next, if nothing else happens."""
        due = min((self._leaves_at(name, since) for name, (_, since) in self.lost.items()), default=_NEVER)
        return None if due == _NEVER else due

    @property
    def remembered(self) -> Seen:
        """What a restart needs: held endpoints are held across it."""
        return replace(self.seen, endpoints=self.endpoints)

    def of(self, service: str) -> Instances:
        """The endpoints of a service by instance."""
        return self.endpoints.get(service, _NOBODY)

    def ready(self, service: str) -> bool:
        """Whether an instance of the service takes calls, as far as etcd knows."""
        return any(endpoint.state is State.READY for endpoint in self.of(service).values())

    def _with(
        self,
        seen: Seen,
        lost: Mapping[Name, tuple[Endpoint, float]],
        registered_since: Mapping[str, float],
        changed: Iterable[str],
    ) -> "Model":
        """The same with new records of the services in `changed`, and of others that share an address with them."""
        records, claims, affected = dict(self._records), dict(self._claims), set(changed)
        held: defaultdict[str, dict[str, Endpoint]] = defaultdict(dict)
        for name, (endpoint, _) in lost.items():
            held[name.service][name.instance] = endpoint
        for service in changed:
            before = records.get(service, _NOBODY)
            now = records[service] = {**seen.endpoints.get(service, _NOBODY), **held[service]}
            for instance, endpoint in before.items():
                claims[endpoint.address] -= {Name(service, instance)}
            for instance, endpoint in now.items():
                claims[endpoint.address] = claims.get(endpoint.address, frozenset()) | {Name(service, instance)}
            for address in {endpoint.address for endpoint in (*before.values(), *now.values())}:
                affected |= {name.service for name in claims[address]}
                if not claims[address]:
                    del claims[address]

        def owner(address: str) -> Name:
            return max(claims[address], key=lambda name: (records[name.service][name.instance].start_time, name))

        endpoints = dict(self.endpoints)
        for service in affected:
            served = {
                instance: endpoint
                for instance, endpoint in sorted(records[service].items())
                if owner(endpoint.address) == Name(service, instance)
            }
            if served != endpoints.get(service):
                endpoints[service] = served
        return Model(seen, lost, registered_since, endpoints, records, claims)

    def _taken(self, address: str) -> bool:
        return any(name not in self.lost for name in self._claims[address])

    def _leaves_at(self, name: Name, lost_at: float) -> float:
        registered_since = self.registered_since.get(name.service)
        return _NEVER if registered_since is None else max(lost_at, registered_since) + LEASE_TTL_S


_NEVER = float("inf")
_NOBODY: Instances = {}
