"""What Envoy's circuit breakers do, as lines of the log: Envoy itself tells it in numbers only."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from services.chassis import logs
from services.chassis.http import httpx
from services.chassis.metrics import Counter, Gauge

EVERY_S = 1.0
_ANSWER_S = 2.0
_NONE_WELL = "no instance is well"
_LIMITS = {
    "circuit_breakers.default.rq_open": "too many requests",
    "circuit_breakers.default.rq_pending_open": "too many pending",
    "circuit_breakers.default.rq_retry_open": "too many retries",
}
_EJECTED, _WELL, _ALL = "outlier_detection.ejections_active", "membership_healthy", "membership_total"
_OUT = {"failed_active_health_check": "failing checks", "failed_outlier_check": "ejected"}
"""Why Envoy sends an instance no calls, in the words of `shopmesh mesh`."""
_WELL_STATE = "well"
_STATES = (_WELL_STATE, *_OUT.values())
_NUMBERS = "|".join(re.escape(name) for name in (*_LIMITS, _EJECTED, _WELL, _ALL))
_CLUSTERS = "/clusters?format=json"
_STATS = "/stats?format=json&filter=" + quote(rf"^cluster\..*\.({_NUMBERS})$")

_log = logs.get()
_instances = Gauge(
    "shopmesh.envoy.instances",
    "{instance}",
    "Instances by whether Envoy sends them calls, and if not why.",
    "service",
    "state",
)
_open = Gauge("shopmesh.envoy.breaker.open", "{breaker}", "1 while Envoy turns calls away.", "service")
_ejections = Counter("shopmesh.envoy.ejections", "{ejection}", "Instances that Envoy has put out.", "service", "state")


@dataclass(frozen=True, slots=True)
class Breaker:
    """Of one service, all its clusters together."""

    open: frozenset[str] = frozenset()
    """Why calls are turned away; empty: it is closed."""
    counted: tuple[int, ...] = ()
    """How many are ejected, well, and there at all, per cluster: while that is the same, so are the instances."""
    instances: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why they get no calls, by address; empty: they do. Without those that come or go."""


type Line = tuple[str, Mapping[str, object]]
type Name = Callable[[str, str], str]
"""Of the instance of a service at an address."""


def reading(stats: Mapping[str, Any], services: frozenset[str]) -> dict[str, Breaker]:
    """Envoy's page. Clusters are called `order`, `order@2.0` and `order/streams`; the first has every instance."""
    numbers = dict[str, dict[str, int]]()
    for stat in stats["stats"]:
        if found := re.fullmatch(rf"cluster\.(.+)\.({_NUMBERS})", stat.get("name", "")):
            numbers.setdefault(found[1], {})[found[2]] = stat["value"]
    breakers = dict[str, Breaker]()
    for cluster, of in numbers.items():
        service = re.split("[@/]", cluster)[0]
        if service not in services:
            continue
        why = {reason for name, reason in _LIMITS.items() if of.get(name)}
        if cluster == service and of.get(_ALL) and not of.get(_WELL):
            why.add(_NONE_WELL)
        other = breakers.get(service, Breaker())
        counted = (*other.counted, *(of.get(name, 0) for name in (_EJECTED, _WELL, _ALL)))
        breakers[service] = Breaker(other.open | why, counted)
    return breakers


def with_instances(breakers: Mapping[str, Breaker], clusters: Mapping[str, Any]) -> dict[str, Breaker]:
    """The same with what Envoy's other page tells."""
    found = {service: dict[str, str]() for service in breakers}
    for cluster in clusters["cluster_statuses"]:
        service = re.split("[@/]", cluster["name"])[0]
        for host in cluster.get("host_statuses", ()) if service in found else ():
            at, health = host["address"]["socket_address"], host["health_status"]
            if health.get("pending_active_hc") or health.get("eds_health_status") == "DRAINING":
                continue
            address = f"{at['address']}:{at['port_value']}"
            why = next((word for flag, word in _OUT.items() if health.get(flag)), "")
            found[service][address] = found[service].get(address) or why
    return {service: replace(breaker, instances=found[service]) for service, breaker in breakers.items()}


def lines(before: Mapping[str, Breaker], now: Mapping[str, Breaker], name: Name) -> Iterator[Line]:
    """What is to be told of two readings: only what is different."""
    for service in sorted(before.keys() | now.keys()):
        old, new = before.get(service, Breaker()), now.get(service, Breaker())
        for address, why in sorted(new.instances.items()):
            known = {"of": service, "name": name(service, address), "address": address}
            if why != (was := old.instances.get(address, "")):
                yield ("instance is out", {**known, "why": why}) if why else ("instance is back", {**known, "why": was})
        if new.open - old.open:
            yield "breaker opened", {"of": service, "why": ", ".join(sorted(new.open))}
        elif old.open and not new.open:
            yield "breaker closed", {"of": service, "why": ", ".join(sorted(old.open))}


def count(before: Mapping[str, Breaker], now: Mapping[str, Breaker]) -> None:
    """The same in numbers. What was out when we first looked is no ejection of now."""
    instances = dict[tuple[str, ...], float]()
    for service, breaker in now.items():
        for state in _STATES:
            instances[service, state] = 0
        for state in _OUT.values():
            _ejections.add(service, state, by=0)
        known = before.get(service, Breaker()).instances
        for address, why in breaker.instances.items():
            instances[service, why or _WELL_STATE] += 1
            if why and service in before and known.get(address, "") != why:
                _ejections.add(service, why)
    _instances.set_all(instances)
    _open.set_all({(service,): bool(breaker.open) for service, breaker in now.items()})


async def follow(admin: str, services: frozenset[str], name: Name) -> None:
    """Looks once a second at `host:port`, where Envoy's admin is; empty: not at all. Never ends otherwise."""
    if not admin:
        return
    before, away = dict[str, Breaker](), False
    async with httpx.AsyncClient(base_url=f"http://{admin}", trust_env=False, timeout=_ANSWER_S) as envoy:
        while True:
            try:
                now = reading(await _page(envoy, _STATS), services)
                if any(before.get(service, Breaker()).counted != of.counted for service, of in now.items()):
                    now = with_instances(now, await _page(envoy, _CLUSTERS))
                else:
                    now = {service: replace(of, instances=before[service].instances) for service, of in now.items()}
            except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
                # It is away, or somebody else answers there: neither keeps a control plane from its work.
                if not away:
                    _log.info("Envoy does not tell of its breakers", error=repr(error))
                away = True
                _instances.forget()
                _open.forget()
            else:
                count(before, now)
                for event, facts in lines(before, now, name):
                    _log.warning(event, **facts)
                before, away = now, False
            await asyncio.sleep(EVERY_S)


async def _page(envoy: httpx.AsyncClient, page: str) -> dict[str, Any]:
    found: dict[str, Any] = (await envoy.get(page)).raise_for_status().json()
    return found
