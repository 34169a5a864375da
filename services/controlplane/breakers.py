"""What Envoy's circuit breakers do, as lines of the log: Envoy itself tells it in numbers only."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import structlog

EVERY_S = 1.0
_ANSWER_S = 2.0
_NONE_WELL = "no instance is well"
_LIMITS = {
    "circuit_breakers.default.rq_open": "too many requests",
    "circuit_breakers.default.rq_pending_open": "too many pending",
    "circuit_breakers.default.rq_retry_open": "too many retries",
}
_EJECTED, _WELL, _ALL = "outlier_detection.ejections_active", "membership_healthy", "membership_total"
_NUMBERS = "|".join(re.escape(name) for name in (*_LIMITS, _EJECTED, _WELL, _ALL))
_STATS = "/stats?format=json&filter=" + quote(rf"^cluster\..*\.({_NUMBERS})$")

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Breaker:
    """Of one service, all its clusters together."""

    open: frozenset[str] = frozenset()
    """Why calls are turned away; empty: it is closed."""
    ejected: int = 0


type Line = tuple[str, Mapping[str, object]]


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
        breakers[service] = Breaker(other.open | why, max(other.ejected, of.get(_EJECTED, 0)))
    return breakers


def lines(before: Mapping[str, Breaker], now: Mapping[str, Breaker]) -> Iterator[Line]:
    """What is to be told of two readings: only what is different."""
    for service in sorted(before.keys() | now.keys()):
        old, new = before.get(service, Breaker()), now.get(service, Breaker())
        if new.open - old.open:
            yield "breaker opened", {"of": service, "why": ", ".join(sorted(new.open))}
        elif old.open and not new.open:
            yield "breaker closed", {"of": service, "why": ", ".join(sorted(old.open))}
        if new.ejected != old.ejected:
            event = "instance ejected" if new.ejected > old.ejected else "instance is back"
            yield event, {"of": service, "ejected": new.ejected}


async def follow(admin: str, services: frozenset[str], tell: Callable[..., object] = _log.warning) -> None:
    """Looks once a second at `host:port`, where Envoy's admin is; empty: not at all. Never ends otherwise."""
    if not admin:
        return
    before, away = dict[str, Breaker](), False
    async with httpx.AsyncClient(base_url=f"http://{admin}", trust_env=False, timeout=_ANSWER_S) as envoy:
        while True:
            try:
                now = reading((await envoy.get(_STATS)).raise_for_status().json(), services)
            except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
                # It is away, or somebody else answers there: neither keeps a control plane from its work.
                if not away:
                    _log.info("Envoy does not tell of its breakers", error=repr(error))
                away = True
            else:
                for event, facts in lines(before, now):
                    tell(event, **facts)
                before, away = now, False
            await asyncio.sleep(EVERY_S)
