"""What Envoy's circuit breakers do, as lines of the log: Envoy itself tells it in numbers only."""

import asyncio
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from services.chassis import logs
from services.chassis.http import httpx
from services.chassis.metrics import Counter, Gauge
from services.chassis.settings import host_and_port, joined

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


def combined(readings: Iterable[Mapping[str, Breaker]]) -> dict[str, Breaker]:
    """Of several Envoys: open when it is with one of them; an instance is out when one of them says so."""
    found = dict[str, Breaker]()
    for reading_of_one in readings:
        for service, breaker in reading_of_one.items():
            other = found.get(service, Breaker())
            instances = {**breaker.instances, **{at: why for at, why in other.instances.items() if why}}
            found[service] = Breaker(other.open | breaker.open, instances={**other.instances, **instances})
    return found


def saying(readings: Mapping[str, Mapping[str, Breaker]], facts: Mapping[str, object]) -> list[str]:
    """The addresses of the Envoys that say what a line tells: that an instance is out, or that a breaker is open."""
    of, at = str(facts["of"]), str(facts.get("address", ""))
    breakers = {envoy: reading_of_one.get(of, Breaker()) for envoy, reading_of_one in readings.items()}
    return sorted(envoy for envoy, one in breakers.items() if (one.instances.get(at) if at else one.open))


class Envoys:
    """All Envoys behind one name, asked together."""

    def __init__(self, admin: str, services: frozenset[str], http: httpx.AsyncClient) -> None:
        """`admin` is `host:port`."""
        self._where, self._services, self._http = host_and_port("SHOPMESH_ENVOY_ADMIN", admin), services, http
        self._addresses: Sequence[str] = ()
        self._before = dict[str, Mapping[str, Breaker]]()
        self._away = frozenset[str]()

    async def read(self) -> Mapping[str, Mapping[str, Breaker]]:
        """By the address of each that answers, what it tells. Who has begun not to answer is told in the log."""
        self._addresses = await self._looked_up() or self._addresses
        answers = await asyncio.gather(*map(self._ask, self._addresses))
        found = dict(zip(self._addresses, answers, strict=True))
        away = {address: answer for address, answer in found.items() if isinstance(answer, str)}
        for address in away.keys() - self._away:
            _log.info("Envoy does not tell of its breakers", envoy=address, error=away[address])
        self._away = frozenset(away)
        self._before = {address: answer for address, answer in found.items() if not isinstance(answer, str)}
        return self._before

    async def _looked_up(self) -> Sequence[str]:
        """They come and go. A resolver that does not answer leaves them where they were."""
        host, port = self._where
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            if not self._addresses and not self._away:
                name = joined(host, port)
                _log.info("Envoy does not tell of its breakers", envoy=name, error=repr(error))
                self._away = frozenset({name})
            return ()
        preferred = min(family for family, *_ in found)  # by both ways it would be two
        return sorted({joined(str(at[0]), port) for family, _, _, _, at in found if family is preferred})

    async def _ask(self, address: str) -> Mapping[str, Breaker] | str:
        """What it tells, or why it does not: away, or somebody else. That keeps no control plane from its work."""
        before = self._before.get(address, {})
        try:
            now = reading(await self._page(address, _STATS), self._services)
            if all(before.get(service, Breaker()).counted == of.counted for service, of in now.items()):
                return {service: replace(of, instances=before[service].instances) for service, of in now.items()}
            return with_instances(now, await self._page(address, _CLUSTERS))
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
            return repr(error)

    async def _page(self, address: str, page: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self._http.get(f"http://{address}{page}")).raise_for_status().json()
        return found


async def follow(admin: str, services: frozenset[str], name: Name) -> None:
    """Looks once a second at the Envoys whose admin is at `host:port`; empty: not at all. Never ends otherwise."""
    if not admin:
        return
    before = dict[str, Breaker]()
    async with httpx.AsyncClient(trust_env=False, timeout=_ANSWER_S) as http:
        envoys = Envoys(admin, services, http)
        while True:
            if readings := await envoys.read():
                now = combined(readings.values())
                count(before, now)
                for event, facts in lines(before, now, name):
                    which = saying(readings, facts) if len(readings) > 1 else []
                    _log.warning(event, **facts, **({"envoys": which} if which else {}))
                before = now
            else:
                _instances.forget()
                _open.forget()
            await asyncio.sleep(EVERY_S)
