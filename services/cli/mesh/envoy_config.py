"""What Envoy's `/config_dump` says of clusters and routes. Pure: the page is given."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FAULT = "envoy.filters.http.fault"
RATE_LIMIT = "envoy.filters.http.local_ratelimit"

ANYBODY = "*"

type Document = Mapping[str, Any]
type Way = tuple[str, str, str]
"""Which calls of an rpc, to which clusters, with which faults: in words."""


def virtual_hosts(dump: Document, domain: str) -> list[Document]:
    """Of all route configurations. `domain` is a service, or ANYBODY for calls from outside."""
    return [
        host
        for page in dump["configs"]
        for each in page.get("dynamic_route_configs", [])
        for host in each.get("route_config", {}).get("virtual_hosts", [])
        if domain in host["domains"]
    ]


def clusters(dump: Document) -> dict[str, Document]:
    """Envoy's clusters by name."""
    return {
        each["cluster"]["name"]: each["cluster"]
        for page in dump["configs"]
        for each in page.get("dynamic_active_clusters", [])
    }


def ways(dump: Document, domain: str, path: str) -> list[Document]:
    """The routes of an rpc, in the order in which Envoy tries them."""
    return [
        route
        for host in virtual_hosts(dump, domain)
        for route in host.get("routes", [])
        if route["match"].get("path") == path and not _is_preflight(route)
    ]


def way_of(route: Document) -> Way:
    """What one of Envoy's routes does."""
    action, made = route.get("route", {}), route.get("typed_per_filter_config", {}).get(FAULT, {})
    headers = [
        (header["name"], at(header, "string_match.exact"))
        for header in route["match"].get("headers", [])
        if not header["name"].startswith(":")
    ]
    weighted: Sequence[Document] = at(action, "weighted_clusters.clusters") or []
    shares = in_shares([(each["name"], each.get("weight", 0)) for each in weighted])
    delay, abort = made.get("delay", {}), made.get("abort", {})
    fault = fault_made(_percent(delay), delay.get("fixed_delay"), _percent(abort), abort.get("grpc_status"))
    return calls_with(headers), shares or str(action.get("cluster", "?")), fault


def calls_with(headers: Iterable[tuple[str, str]]) -> str:
    """Which calls: those with all of these."""
    return " and ".join(f"with {name}: {value}" for name, value in headers) or "all"


def in_shares(weights: Sequence[tuple[str, int]]) -> str:
    """Of weights by cluster."""
    total = sum(weight for _, weight in weights) or 1
    return ", ".join(f"{name} {100 * weight / total:g} %" for name, weight in weights)


def fault_made(delayed: str, delay: object, aborted: str, abort: object) -> str:
    """`delayed` and `aborted` are shares of the calls, `abort` the number of a gRPC status."""
    said = [f"{delayed} delayed by {seconds(delay):g}s"] if delay else []
    said += [] if abort is None else [f"{aborted} answered with gRPC status {abort}"]
    return ", ".join(said) or "none"


def _percent(fault: Document) -> str:
    parts = {"HUNDRED": 1, "TEN_THOUSAND": 100, "MILLION": 10_000}
    share = fault.get("percentage", {})
    return f"{share.get('numerator', 0) / parts[share.get('denominator', 'HUNDRED')]:g} %"


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


def _is_preflight(route: Document) -> bool:
    return any(at(header, "string_match.exact") == "OPTIONS" for header in route["match"].get("headers", []))
