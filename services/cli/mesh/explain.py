"""How calls from one to another are carried, and where each figure comes from. Pure: what was read is given.

What Envoy has is shown, since that is what happens; what the policy asks for stands beside it where it differs.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

from google.protobuf import descriptor_pb2
from google.rpc import code_pb2
from mesh.v1 import auth_pb2

from services.cli.mesh.envoy_config import (
    ANYBODY,
    RATE_LIMIT,
    Document,
    Way,
    at,
    calls_with,
    clusters,
    fault_made,
    in_shares,
    seconds,
    virtual_hosts,
    way_of,
    ways,
)

EDGE = "edge"
MESH = "mesh"
_UNKNOWN = descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN

_FREE = "the caller's deadline"
_DURATION = re.compile(r"[\d.]+s")

LIMITS = "circuit_breakers.thresholds.0"
OUT = "outlier_detection"
CHECK = "health_checks.0"
FIGURES = (
    ("calls under way, at most", "circuit_breaker.max_requests", "", f"{LIMITS}.max_requests"),
    ("streams under way, at most", "circuit_breaker.max_streams", "/streams", f"{LIMITS}.max_requests"),
    ("calls waiting, at most", "circuit_breaker.max_pending_requests", "", f"{LIMITS}.max_pending_requests"),
    ("retries, in percent of the calls", "retries.budget_percent", "", f"{LIMITS}.retry_budget.budget_percent.value"),
    ("ejected after failures in a row", "ejection.consecutive_failures", "", f"{OUT}.consecutive_local_origin_failure"),
    ("failures are looked at every", "ejection.interval", "", f"{OUT}.interval"),
    ("ejected at first for", "ejection.base_ejection_time", "", f"{OUT}.base_ejection_time"),
    ("ejected at most for", "ejection.max_ejection_time", "", f"{OUT}.max_ejection_time"),
    ("health is asked every", "health_check.interval", "", f"{CHECK}.interval"),
    ("an answer is late after", "health_check.timeout", "", f"{CHECK}.timeout"),
    ("out after bad answers", "health_check.unhealthy_threshold", "", f"{CHECK}.unhealthy_threshold"),
    ("back after good answers", "health_check.healthy_threshold", "", f"{CHECK}.healthy_threshold"),
)
"""What it is called, where the policy says it, which cluster of the service has it and where."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The policy of a service: the document in etcd over the seed."""

    seed: Document
    document: Document
    revision: int
    """Of the document; 0 when there is none."""

    def value(self, *paths: str) -> tuple[object, str]:
        """The first of the paths that is set, and by whom; a document goes before the seed."""
        for path in paths:
            for said, by in ((self.document, f"etcd {self.revision}"), (self.seed, "seed")):
                if (found := at(said, path)) is not None:
                    return found, by
        return None, "default"


@dataclass(frozen=True, slots=True)
class Figure:
    """What Envoy has, what it was asked for, and who asked; without `by` nobody can ask for it."""

    has: object
    asked: object = None
    by: str = ""

    @property
    def differs(self) -> bool:
        # Envoy leaves out what is 0.
        return self.asked is not None and not _same(0 if self.has is None else self.has, self.asked)

    def __str__(self) -> str:
        has = f"{'?' if self.has is None else self.has}"
        return f"{has} (asked for {self.asked})" if self.differs else has


@dataclass(frozen=True, slots=True)
class Rpc:
    path: str
    idempotent: bool
    streaming: bool
    rule: str
    """Who may call it, as the contract says."""
    callers: frozenset[str]
    """Services, where only they may."""

    @property
    def method(self) -> str:
        return self.path.rpartition("/")[2]

    def is_open_to(self, caller: str) -> bool:
        return not self.callers if caller == EDGE else caller in self.callers or self.rule == "public"


def rpcs_of(service: str) -> list[Rpc]:
    """As the contract has them."""
    file = import_module(f"shop.{service}.v1.{service}_pb2").DESCRIPTOR
    found = []
    for grpc_service in file.services_by_name.values():
        for method in grpc_service.methods:
            options = method.GetOptions()
            rule = options.Extensions[auth_pb2.rule]
            who = "public" if rule.public else ", ".join([*rule.roles, *rule.clients])
            found.append(
                Rpc(
                    f"/{grpc_service.full_name}/{method.name}",
                    options.idempotency_level != _UNKNOWN,
                    method.client_streaming or method.server_streaming,
                    who,
                    frozenset(rule.clients),
                )
            )
    return found


def told(asked: Asked, caller: str, rpc: Rpc, route: Document) -> dict[str, Figure]:
    """One way of an rpc."""
    action = route.get("route", {})
    retry = action.get("retry_policy", {})
    way = EDGE if caller == EDGE else MESH
    times_asked, times_by = asked.value(f"rpcs.{rpc.method}.{way}", f"retries.{way}")
    try_asked, try_by = asked.value(f"rpcs.{rpc.method}.per_try_timeout", "retries.per_try_timeout")
    limit_asked, limit_by = asked.value(f"rpcs.{rpc.method}.timeout")
    limit = seconds(at(action, "max_stream_duration.max_stream_duration"))
    kind = "a stream" if rpc.streaming else "idempotent" if rpc.idempotent else "not idempotent"
    per_try = retry.get("per_try_timeout") if "reset" in retry.get("retry_on", "") else None  # it may have run
    calls, clusters, faults = way_of(route)
    return {
        "calls": Figure(calls),
        "go to": Figure(clusters),
        "time limit": Figure(f"{limit:g}s" if limit else _FREE, limit_asked or _FREE, limit_by),
        "tries": Figure(
            1 + int(retry.get("num_retries") or 0), None if times_asked is None else 1 + int(str(times_asked)), times_by
        ),
        "again after": Figure(retry.get("retry_on", "nothing"), by=f"contract: {kind}"),
        "one try": Figure(per_try, try_asked, try_by) if per_try else Figure("as long as the call"),
        "faults": Figure(faults),
    }


def figures(dump: Document, asked: Asked, service: str) -> Iterator[tuple[str, Figure]]:
    """What holds for the service, by what it is called."""
    known = clusters(dump)
    for name, path, cluster, place in FIGURES:
        if found := known.get(service + cluster):
            yield name, Figure(at(found, place), *asked.value(path))
    policies: Sequence[Document] = at(known.get(service), "load_balancing_policy.policies") or [{}]
    chosen = str(at(policies[0], "typed_extension_config.name") or "?").rpartition(".")[2]
    wanted, by = asked.value("load_balancing")
    default = "LOAD_BALANCING_LEAST_REQUEST"
    yield "an instance is chosen by", Figure(chosen, str(wanted or default).removeprefix("LOAD_BALANCING_").lower(), by)


def limits(dump: Document, asked: Asked, service: str) -> Iterator[tuple[str, Figure]]:
    """How often anybody outside may call the service."""
    buckets: Sequence[Document] = [
        bucket
        for host in virtual_hosts(dump, ANYBODY)
        for bucket in host.get("typed_per_filter_config", {}).get(RATE_LIMIT, {}).get("descriptors", [])
    ]
    has = {
        entries[1]["key"]: each["token_bucket"]
        for each in buckets
        if (entries := each["entries"])[0].get("value") == service
    }
    for whose, key in (("user", "user"), ("address", "masked_remote_address")):
        calls, by = asked.value(f"rate_limit.{whose}.calls")
        burst, per = (asked.value(f"rate_limit.{whose}.{name}")[0] for name in ("burst", "per"))
        bucket = has.get(key, {})
        yield (
            f"calls of one {whose}, at most",
            Figure(
                _bucket(bucket.get("tokens_per_fill"), bucket.get("fill_interval"), bucket.get("max_tokens")),
                _bucket(calls, per, burst),
                by,
            ),
        )


def differences(dump: Document, asked: Asked, service: str, before: Asked | None = None) -> Iterator[str]:
    """What Envoy does in another way than it was asked to, or not yet, in words; nothing when all is well.

    With `before`, only of what was asked for in another way then: the control plane may be of a release with other
    defaults than ours.
    """
    for page in dump["configs"]:
        for each in page.get("dynamic_warming_clusters", []):
            if re.split("[@/]", each["cluster"]["name"])[0] == service:
                yield f"{each['cluster']['name']}: its instances are not checked yet"
    then = dict(_all_figures(dump, before, service)) if before else {}
    for name, figure in _all_figures(dump, asked, service):
        if figure.differs and not (name in then and then[name].asked == figure.asked):
            yield f"{name}: {figure}"


def _all_figures(dump: Document, asked: Asked, service: str) -> Iterator[tuple[str, Figure]]:
    yield from figures(dump, asked, service)
    yield from limits(dump, asked, service)
    for rpc in rpcs_of(service):
        for way in (EDGE, MESH) if rpc.is_open_to(EDGE) else (MESH,):
            for name, figure in _figures_of(dump, asked, service, rpc, way):
                yield f"{rpc.method} by {way}, {name}", figure


def _figures_of(dump: Document, asked: Asked, service: str, rpc: Rpc, way: str) -> Iterator[tuple[str, Figure]]:
    routes = ways(dump, ANYBODY if way == EDGE else service, rpc.path)
    yield "calls", Figure(_ways(map(way_of, routes)), _ways(wanted_ways(asked, service, rpc)))
    for number, route in enumerate(routes):
        for name, figure in told(asked, way, rpc, route).items():
            yield f"route {number}, {name}" if number else name, figure


def wanted_ways(asked: Asked, service: str, rpc: Rpc) -> list[Way]:
    """The routes that the policy asks for, in the order in which Envoy is to try them."""
    streams = "/streams" if rpc.streaming else ""
    canary, faults = asked.value("canary")[0] or {}, asked.value("faults")[0] or []
    shares = [(f"{service}@{each['version']}{streams}", each.get("weight", 0)) for each in at(canary, "weights") or ()]
    to_all = in_shares(shares) if any(weight for _, weight in shares) else f"{service}{streams}"
    found = list[Way]()
    for header, fault in _faults_of(rpc, faults):
        for match in at(canary, "matches") or ():
            both = [*header, (match["header"]["name"], match["header"]["value"])]
            found.append((calls_with(both), f"{service}@{match['version']}{streams}", fault))
        found.append((calls_with(header), to_all, fault))
    return found


def _faults_of(rpc: Rpc, faults: object) -> Iterator[tuple[list[tuple[str, str]], str]]:
    """Which header a call has, and the fault that is made of it; in the end of all others."""
    for fault in faults if isinstance(faults, list) else ():
        if fault.get("rpcs") and rpc.method not in fault["rpcs"]:
            continue
        share = f"{fault.get('percent', 100):g} %"
        abort = code_pb2.Code.Value(fault["abort"]) if "abort" in fault else None
        words = fault_made(share, fault.get("delay"), share, abort)
        if "header" not in fault:
            yield [], words
            return
        yield [(fault["header"]["name"], fault["header"]["value"])], words
    yield [], fault_made("", None, "", None)


def _same(one: object, other: object) -> bool:
    if _DURATION.fullmatch(f"{one}") and _DURATION.fullmatch(f"{other}"):
        return seconds(one) == seconds(other)
    return f"{one}".removesuffix(".0") == f"{other}".removesuffix(".0")


def _bucket(calls: object, per: object, burst: object) -> str:
    return f"{calls} in {seconds(per):g} s, {burst} at once" if calls else "no limit"


def _ways(found: Iterable[Way]) -> str:
    return "; ".join(f"{calls} to {to}, faults: {faults}" for calls, to, faults in found) or "no route"
