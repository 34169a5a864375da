"""What Envoy's admin pages say of the services, as values. Pure; who asks for the pages stands elsewhere."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

CLUSTERS = "/clusters?format=json"
_SHOWN = (
    "upstream_rq_total",
    "upstream_rq_5xx",
    "upstream_rq_retry",
    "upstream_rq_pending_overflow",
    "upstream_rq_retry_overflow",
    "upstream_rq_time",
    r"circuit_breakers\.default\.[a-z_]+_open",
    r"grpc\.[0-9]+",
)
STATS = "/stats?format=json&filter=" + quote(rf"^cluster\..*\.({'|'.join(_SHOWN)})$")
"""Only what is shown: all of it would be a hundred times as much."""

_OUT = {
    "failed_active_health_check": "failing checks",
    "failed_outlier_check": "ejected",
    "pending_active_hc": "not checked yet",
    "pending_dynamic_removal": "being removed",
    "excluded_via_immediate_hc_fail": "failing checks",
}
"""Why Envoy sends an instance no calls; a draining one is told by `eds_health_status`."""


@dataclass(frozen=True, slots=True)
class Host:
    """An instance as Envoy sees it, in one cluster."""

    address: str
    out: str
    """Why it gets no calls; empty when it does."""
    draining: bool
    calls: int
    """Since it is known, tries included."""
    failed: int
    """Of these: broken off, timed out, or answered with a status that says the server failed."""
    active: int

    @property
    def is_well(self) -> bool:
        return not self.out and not self.draining


@dataclass(frozen=True, slots=True)
class Traffic:
    """Counters of one cluster since Envoy started, gauges and quantiles of now."""

    counters: Mapping[str, int] = field(default_factory=dict[str, int])
    open_limits: tuple[str, ...] = ()
    """Breakers that are open: rq, rq_pending, rq_retry, cx."""
    statuses: Mapping[int, int] = field(default_factory=dict[int, int])
    """How often an instance answered with which gRPC status."""
    p99_ms: float | None = None
    """Of the last seconds; None when nobody called."""


@dataclass(frozen=True, slots=True)
class Envoy:
    """What one Envoy knows, by cluster."""

    hosts: Mapping[str, Sequence[Host]] = field(default_factory=dict[str, Sequence[Host]])
    traffic: Mapping[str, Traffic] = field(default_factory=dict[str, Traffic])


def hosts(clusters: Mapping[str, Any]) -> dict[str, list[Host]]:
    """The page CLUSTERS: who is in which cluster."""
    return {
        cluster["name"]: [
            _host(host) for host in cluster.get("host_statuses", []) if "socket_address" in host["address"]
        ]
        for cluster in clusters["cluster_statuses"]
    }


def _host(host: Mapping[str, Any]) -> Host:
    at = host["address"]["socket_address"]
    ip = f"[{at['address']}]" if ":" in at["address"] else at["address"]
    health, counted = host.get("health_status", {}), {each["name"]: int(each.get("value", 0)) for each in host["stats"]}
    reasons = [why for flag, why in _OUT.items() if health.get(flag)]
    return Host(
        f"{ip}:{at['port_value']}",
        ", ".join(dict.fromkeys(reasons)),
        health.get("eds_health_status") == "DRAINING",
        counted.get("rq_total", 0),
        counted.get("rq_error", 0),
        counted.get("rq_active", 0),
    )


def traffic(stats: Mapping[str, Any]) -> dict[str, Traffic]:
    """The page STATS, by cluster."""
    counters: dict[str, dict[str, int]] = {}
    open_limits: dict[str, list[str]] = {}
    statuses: dict[str, dict[int, int]] = {}
    for stat in stats["stats"]:
        if "name" not in stat:
            continue
        if found := re.fullmatch(r"cluster\.(.+)\.circuit_breakers\.default\.(\w+)_open", stat["name"]):
            if stat["value"]:
                open_limits.setdefault(found[1], []).append(found[2])
        elif found := re.fullmatch(r"cluster\.(.+)\.grpc\.(\d+)", stat["name"]):
            statuses.setdefault(found[1], {})[int(found[2])] = stat["value"]
        elif found := re.fullmatch(r"cluster\.(.+)\.(upstream_\w+)", stat["name"]):
            counters.setdefault(found[1], {})[found[2]] = stat["value"]
    slow = _p99(next((stat["histograms"] for stat in stats["stats"] if "histograms" in stat), {}))
    return {
        name: Traffic(counted, tuple(open_limits.get(name, ())), statuses.get(name, {}), slow.get(name))
        for name, counted in counters.items()
    }


def _p99(histograms: Mapping[str, Any]) -> dict[str, float]:
    """Of the last interval that Envoy has closed; 5 s long."""
    if not histograms:
        return {}
    at = histograms["supported_quantiles"].index(99)
    quantiles: Sequence[Mapping[str, Any]] = histograms["computed_quantiles"]
    return {
        each["name"].removeprefix("cluster.").removesuffix(".upstream_rq_time"): each["values"][at]["interval"]
        for each in quantiles
        if each["values"][at]["interval"] is not None
    }
