"""How calls from one to another are carried, and where each figure comes from. Pure: what was read is given.

What Envoy has is shown, since that is what happens; what the policy asks for stands beside it where it differs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from google.protobuf import descriptor_pb2
from mesh.v1 import auth_pb2

EDGE = "edge"
FAULT = "envoy.filters.http.fault"
_UNKNOWN = descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN

type Document = Mapping[str, Any]

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


def ways(dump: Document, caller: str, service: str, rpc: Rpc) -> list[Document]:
    """The routes that Envoy has for an rpc, in the order in which it tries them."""
    domain = "*" if caller == EDGE else service
    return [
        route
        for table in route_tables(dump)
        for host in table.get("virtual_hosts", [])
        if domain in host["domains"]
        for route in host.get("routes", [])
        if route["match"].get("path") == rpc.path and not _is_preflight(route)
    ]


def told(asked: Asked, caller: str, rpc: Rpc, route: Document) -> dict[str, str]:
    """One way of an rpc in words."""
    action = route.get("route", {})
    retry = action.get("retry_policy", {})
    times = at(retry, "num_retries")
    way = "edge" if caller == EDGE else "mesh"
    times_asked, times_by = asked.value(f"rpcs.{rpc.method}.{way}", f"retries.{way}")
    try_asked, try_by = asked.value(f"rpcs.{rpc.method}.per_try_timeout", "retries.per_try_timeout")
    limit_asked, limit_by = asked.value(f"rpcs.{rpc.method}.timeout")
    limit = seconds(at(action, "max_stream_duration.max_stream_duration"))
    kind = "a stream" if rpc.streaming else "idempotent" if rpc.idempotent else "not idempotent"
    may_have_run = "reset" in retry.get("retry_on", "")
    per_try = retry.get("per_try_timeout")
    return {
        "calls": _headers(route),
        "go to": _clusters(action),
        "time limit": _figure(f"{limit:g}s" if limit else "the caller's deadline", limit_asked, limit_by),
        "tries": _figure(
            str(1 + int(times or 0)), None if times_asked is None else 1 + int(str(times_asked)), times_by
        ),
        "again after": f"{retry.get('retry_on', 'nothing')}  [contract: {kind}]",
        "one try": _figure(per_try, try_asked, try_by) if may_have_run and per_try else "as long as the call",
        "faults": _faults(route),
    }


def figures(dump: Document, asked: Asked, service: str) -> Iterator[tuple[str, str, str]]:
    """What holds for the service: name, value, where it comes from."""
    known = clusters(dump)
    for name, path, cluster, place in FIGURES:
        if found := known.get(service + cluster):
            value, by = asked.value(path)
            yield name, _only(at(found, place), value), by
    policies: Sequence[Document] = at(known.get(service), "load_balancing_policy.policies") or [{}]
    chosen = str(at(policies[0], "typed_extension_config.name") or "?").rpartition(".")[2]
    yield "an instance is chosen by", chosen, asked.value("load_balancing")[1]


def route_tables(dump: Document) -> list[Document]:
    """All of Envoy's route configurations."""
    return [
        each["route_config"]
        for page in dump["configs"]
        for each in page.get("dynamic_route_configs", [])
        if "route_config" in each
    ]


def clusters(dump: Document) -> dict[str, Document]:
    """Envoy's clusters by name."""
    return {
        each["cluster"]["name"]: each["cluster"]
        for page in dump["configs"]
        for each in page.get("dynamic_active_clusters", [])
    }


def at(document: object, path: str) -> Any:  # noqa: ANN401
    """The value at a path with dots, a number being a place in a list; None where there is none."""
    for step in path.split("."):
        if isinstance(document, Mapping):
            document = document.get(step)
        elif isinstance(document, Sequence) and step.isdigit() and int(step) < len(document):
            document = document[int(step)]
        else:
            return None
    return document


def seconds(text: object) -> float:
    """Of a duration in protobuf-JSON; 0 for none."""
    return float(text.removesuffix("s")) if isinstance(text, str) and text.endswith("s") else 0.0


def _figure(has: object, asked: object, by: str) -> str:
    return f"{_only(has, asked)}  [{by}]"


def _only(has: object, asked: object) -> str:
    """What Envoy has, and what it was asked for if that is something else."""
    if has is None:
        return "?" if asked is None else f"? (asked for {asked})"
    return str(has) if asked is None or _same(has, asked) else f"{has} (asked for {asked})"


def _same(one: object, other: object) -> bool:
    if isinstance(one, str) and isinstance(other, str) and one.endswith("s") and other.endswith("s"):
        return seconds(one) == seconds(other)
    return str(one).removesuffix(".0") == str(other).removesuffix(".0")


def _is_preflight(route: Document) -> bool:
    return any(at(header, "string_match.exact") == "OPTIONS" for header in route["match"].get("headers", []))


def _headers(route: Document) -> str:
    found = [header for header in route["match"].get("headers", []) if not header["name"].startswith(":")]
    return " and ".join(f"with {each['name']}: {at(each, 'string_match.exact')}" for each in found) or "all"


def _clusters(action: Document) -> str:
    weighted: Sequence[Document] = at(action, "weighted_clusters.clusters") or []
    total = sum(each.get("weight", 0) for each in weighted) or 1
    shares = [f"{each['name']} {100 * each.get('weight', 0) / total:g} %" for each in weighted]
    return ", ".join(shares) or str(action.get("cluster", "?"))


def _faults(route: Document) -> str:
    made = route.get("typed_per_filter_config", {}).get(FAULT, {})
    said = []
    if delay := made.get("delay"):
        said.append(f"{_percent(delay)} delayed by {delay.get('fixed_delay')}")
    if abort := made.get("abort"):
        said.append(f"{_percent(abort)} answered with gRPC status {abort.get('grpc_status')}")
    return ", ".join(said) or "none"


def _percent(fault: Document) -> str:
    parts = {"HUNDRED": 1, "TEN_THOUSAND": 100, "MILLION": 10_000}
    share = fault.get("percentage", {})
    return f"{share.get('numerator', 0) / parts[share.get('denominator', 'HUNDRED')]:g} %"
