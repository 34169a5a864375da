"""The mesh as a table: what etcd says, what Envoy does with it, and what was measured between two readings. Pure.

Where several Envoys carry the calls, their figures are added up, and what only some of them say tells how many.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mesh.v1 import registry_pb2

from services.cli.local.releases import Release
from services.cli.mesh.envoy_admin import Envoy, Host, Traffic
from services.cli.settings import SERVICES

_LIMITS = {"rq": "calls", "rq_pending": "waiting calls", "rq_retry": "retries", "cx": "connections", "cx_pool": "pools"}


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that is asked, at one moment. What did not answer is None."""

    at: float
    """Seconds of a monotonic clock."""
    parts: Mapping[str, tuple[str, str]]
    """State and address of what runs on this machine, by name."""
    endpoints: Mapping[str, registry_pb2.Endpoint] | None = None
    """By `<service>/<instance>`."""
    policies: Mapping[str, int] = field(default_factory=dict[str, int])
    """Revision of the document of a service in etcd."""
    applied: tuple[registry_pb2.Status, ...] = ()
    """What each control plane says of itself."""
    envoys: Mapping[str, Envoy] = field(default_factory=dict[str, Envoy])
    """Those that answered, by the address of their admin page."""
    silent: int = 0
    """How many others there are."""

    def where(self, some: int) -> str:
        """In words, at how many of the Envoys something is so; empty when at all."""
        known = len(self.envoys) + self.silent
        return "" if some == known else f" at {some} of {known} Envoys"


@dataclass(frozen=True, slots=True)
class Instance:
    instance: str
    version: str
    address: str
    state: str
    """READY or DRAINING, as it registered; held: it vanished from etcd without a word; drained: by an operator."""
    health: str
    """As Envoy sees it: well, or why it gets no calls."""
    calls_per_s: float
    failed_per_s: float
    """Tries that broke off, ran out of time, or were answered UNAVAILABLE, INTERNAL and the like."""


@dataclass(frozen=True, slots=True)
class Service:
    service: str
    breaker: str
    calls_per_s: float
    failed_per_s: float
    """Calls that got Envoy's own answer, since no instance gave one."""
    refused_per_s: float
    """Calls that an instance answered with another status than OK."""
    p99_ms: float | None
    """Of calls answered in the last 5 s; None when there were none."""
    policy: str
    """Revision in etcd of the policy that is applied."""
    instances: tuple[Instance, ...]


def view(before: Reading, now: Reading) -> list[Service]:
    """Rates are those between the two readings; without an earlier one of an Envoy, its are 0."""
    return [_service(service, before, now) for service in SERVICES]


def _service(service: str, before: Reading, now: Reading) -> Service:
    seconds = max(now.at - before.at, 0.001)
    instances = tuple(_instances(service, before, now, seconds))
    both = now.envoys.keys() & before.envoys.keys()
    last, then = (_together([reading.envoys[each] for each in both], service) for reading in (now, before))

    def rate(counter: str) -> float:
        return max(0, last.counters.get(counter, 0) - then.counters.get(counter, 0)) / seconds

    refused = sum(last.statuses.values()) - sum(then.statuses.values())
    return Service(
        service,
        _breaker(service, now, rate("upstream_rq_pending_overflow")),
        sum(each.calls_per_s for each in instances),
        rate("upstream_rq_5xx"),
        max(0, refused) / seconds,
        _together(now.envoys.values(), service).p99_ms,
        _policy(service, now),
        instances,
    )


def _instances(service: str, before: Reading, now: Reading, seconds: float) -> Iterable[Instance]:
    """First who registered, then who Envoy knows beyond these, then who is drained."""
    hosts, earlier = ({each: _by_address(envoy, service) for each, envoy in reading.envoys.items()}
                      for reading in (now, before))  # fmt: skip
    names = {address: name for name, (_, address) in now.parts.items() if _is_of(name, service)}

    def row(name: str, version: str, address: str, state: str) -> Instance:
        calls = failed = 0
        for each in hosts.keys() & earlier.keys():
            if (host := hosts[each].get(address)) and (then := earlier[each].get(address)):
                calls += max(0, host.calls - then.calls)
                failed += max(0, host.failed - then.failed)
        health = _health([seen.get(address) for seen in hosts.values()], now)
        return Instance(name, version, address, state, health, calls / seconds, failed / seconds)

    registered = {
        key.removeprefix(f"{service}/"): endpoint
        for key, endpoint in sorted((now.endpoints or {}).items())
        if key.startswith(f"{service}/")
    }
    for name, endpoint in registered.items():
        state = registry_pb2.Endpoint.State.Name(endpoint.state).removeprefix("STATE_")
        yield row(name, endpoint.version, endpoint.address, state)
    known = {endpoint.address for endpoint in registered.values()}
    for address in sorted({address for seen in hosts.values() for address in seen} - known):
        name = names.get(address, "?")
        yield row(name, _version(name), address, "held" if now.endpoints is not None else "?")
    for name, (state, address) in now.parts.items():
        if state == "drained" and _is_of(name, service) and name not in registered:
            yield Instance(name, _version(name), address, state, "-", 0, 0)


def _health(seen: Sequence[Host | None], now: Reading) -> str:
    """`seen`: the instance as each Envoy has it."""
    told = Counter(
        "not in Envoy" if host is None else host.out or ("draining" if host.draining else "well") for host in seen
    )
    if len(told) > 1:
        del told["well"]
    return ", ".join(f"{what}{now.where(some) if some < len(seen) else ''}" for what, some in told.items()) or "?"


def _breaker(service: str, now: Reading, overflows_per_s: float) -> str:
    if not now.envoys:
        return "?"
    told = Counter(why for envoy in now.envoys.values() if (why := _why_open(envoy, service)))
    if told:
        return "open" + ", ".join(f"{now.where(some)}: {why}" for why, some in told.items())
    if overflows_per_s:
        return f"open: {overflows_per_s:.0f} calls/s too many"
    return f"closed{now.where(len(now.envoys))}"


def _why_open(envoy: Envoy, service: str) -> str:
    if limits := _together([envoy], service).open_limits:
        return "too many " + ", ".join(_LIMITS.get(limit, limit) for limit in limits)
    return "" if any(host.is_well for host in _by_address(envoy, service).values()) else "no instance is well"


def _policy(service: str, now: Reading) -> str:
    if now.endpoints is None:
        return "?"
    asked = now.policies.get(service, 0)
    name = str(asked or "seed")
    for status in now.applied:
        document = dict(status.documents).get(f"policy/{service}")
        if document and document.refused.revision and document.refused.revision == asked:
            return f"{asked} refused, {document.revision or 'seed'} holds"
        if document and document.revision != asked:
            return f"{document.revision or 'seed'}, soon {name}"
    return name


def refusals(now: Reading, service: str) -> list[str]:
    """Why what was asked for does not hold: the control plane's words of the policy, and Envoy's of anything."""
    said = []
    for status in now.applied:
        document = dict(status.documents).get(f"policy/{service}")
        if document and document.refused.revision and document.refused.revision == now.policies.get(service):
            said.append(f"revision {document.refused.revision} by the control plane: {document.refused.reason}")
        said += [f"by {each.node}, {each.type_url.rpartition('.')[2]}: {each.reason}" for each in status.envoy_refusals]
    return said


def _together(envoys: Iterable[Envoy], service: str) -> Traffic:
    """Of all clusters of a service: its own, those of its versions, those for streams."""
    counters: dict[str, int] = {}
    refused = 0
    open_limits: list[str] = []
    slow: list[float] = []
    for cluster, each in (item for envoy in envoys for item in envoy.traffic.items()):
        if not _is_cluster_of(cluster, service):
            continue
        for name, value in each.counters.items():
            counters[name] = counters.get(name, 0) + value
        refused += sum(count for status, count in each.statuses.items() if status)
        open_limits += each.open_limits
        if each.p99_ms is not None and not cluster.endswith("/streams"):  # which are long by nature
            slow.append(each.p99_ms)
    return Traffic(counters, tuple(dict.fromkeys(open_limits)), {1: refused}, max(slow, default=None))


def _by_address(envoy: Envoy, service: str) -> dict[str, Host]:
    """Each instance once, though it may stand in several clusters: its calls are added up."""
    found: dict[str, Host] = {}
    for cluster, hosts in sorted(envoy.hosts.items()):
        for host in hosts if _is_cluster_of(cluster, service) else ():
            first = found.get(host.address, Host(host.address, "", draining=False, calls=0, failed=0, active=0))
            found[host.address] = Host(
                host.address,
                first.out or host.out,
                first.draining or host.draining,
                first.calls + host.calls,
                first.failed + host.failed,
                first.active + host.active,
            )
    return found


def _is_cluster_of(cluster: str, service: str) -> bool:
    """`order`, `order@2.0`, `order/streams`."""
    return cluster == service or cluster.startswith((f"{service}@", f"{service}/"))


def _is_of(part: str, service: str) -> bool:
    release = Release.of(part)
    return release is not None and release.service == service


def _version(part: str) -> str:
    release = Release.of(part)
    return release.version if release else ""
