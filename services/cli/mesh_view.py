"""The mesh as a table: what etcd says, what Envoy does with it, and what was measured between two readings. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mesh.v1 import registry_pb2

from services.cli.envoy_admin import Host, Traffic
from services.cli.releases import Release
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
    hosts: Mapping[str, list[Host]] | None = None
    traffic: Mapping[str, Traffic] = field(default_factory=dict[str, Traffic])


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
    """Rates are those between the two readings; without an earlier one of Envoy they are 0."""
    return [_service(service, before, now) for service in SERVICES]


def _service(service: str, before: Reading, now: Reading) -> Service:
    seconds = max(now.at - before.at, 0.001)
    instances = tuple(_instances(service, before, now, seconds))
    last, then = _together(now.traffic, service), _together(before.traffic or now.traffic, service)

    def rate(counter: str) -> float:
        return max(0, last.counters.get(counter, 0) - then.counters.get(counter, 0)) / seconds

    refused = sum(last.statuses.values()) - sum(then.statuses.values())
    overflows = rate("upstream_rq_pending_overflow")
    return Service(
        service,
        _breaker(last, overflows, instances) if now.hosts is not None else "?",
        sum(each.calls_per_s for each in instances),
        rate("upstream_rq_5xx"),
        max(0, refused) / seconds,
        last.p99_ms,
        _policy(service, now),
        instances,
    )


def _instances(service: str, before: Reading, now: Reading, seconds: float) -> Iterable[Instance]:
    """First who registered, then who Envoy knows beyond these, then who is drained."""
    hosts, earlier = _by_address(now.hosts, service), _by_address(before.hosts or now.hosts, service)
    names = {address: name for name, (_, address) in now.parts.items() if _is_of(name, service)}

    def row(name: str, version: str, address: str, state: str) -> Instance:
        host, then = hosts.get(address), earlier.get(address)
        calls = host.calls - then.calls if host and then else 0
        failed = host.failed - then.failed if host and then else 0
        return Instance(
            name, version, address, state, _health(host, now), max(0, calls) / seconds, max(0, failed) / seconds
        )

    registered = {
        key.removeprefix(f"{service}/"): endpoint
        for key, endpoint in sorted((now.endpoints or {}).items())
        if key.startswith(f"{service}/")
    }
    for name, endpoint in registered.items():
        state = registry_pb2.Endpoint.State.Name(endpoint.state).removeprefix("STATE_")
        yield row(name, endpoint.version, endpoint.address, state)
    known = {endpoint.address for endpoint in registered.values()}
    for address in sorted(hosts.keys() - known):
        name = names.get(address, "?")
        yield row(name, _version(name), address, "held" if now.endpoints is not None else "?")
    for name, (state, address) in now.parts.items():
        if state == "drained" and _is_of(name, service) and name not in registered:
            yield Instance(name, _version(name), address, state, "-", 0, 0)


def _health(host: Host | None, now: Reading) -> str:
    if now.hosts is None:
        return "?"
    if host is None:
        return "not in Envoy"
    return host.out or ("draining" if host.draining else "well")


def _breaker(traffic: Traffic, overflows_per_s: float, instances: Iterable[Instance]) -> str:
    if traffic.open_limits:
        return "open: too many " + ", ".join(_LIMITS.get(limit, limit) for limit in traffic.open_limits)
    if overflows_per_s:
        return f"open: {overflows_per_s:.0f} calls/s too many"
    return "closed" if any(each.health == "well" for each in instances) else "open: no instance is well"


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


def _together(traffic: Mapping[str, Traffic], service: str) -> Traffic:
    """Of all clusters of a service: its own, those of its versions, those for streams."""
    counters: dict[str, int] = {}
    refused = 0
    open_limits: list[str] = []
    slow: list[float] = []
    for cluster, each in traffic.items():
        if not _is_cluster_of(cluster, service):
            continue
        for name, value in each.counters.items():
            counters[name] = counters.get(name, 0) + value
        refused += sum(count for status, count in each.statuses.items() if status)
        open_limits += each.open_limits
        if each.p99_ms is not None and not cluster.endswith("/streams"):  # which are long by nature
            slow.append(each.p99_ms)
    return Traffic(counters, tuple(dict.fromkeys(open_limits)), {1: refused}, max(slow, default=None))


def _by_address(clusters: Mapping[str, list[Host]] | None, service: str) -> dict[str, Host]:
    """Each instance once, though it may stand in several clusters: its calls are added up."""
    found: dict[str, Host] = {}
    for cluster, hosts in sorted((clusters or {}).items()):
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
