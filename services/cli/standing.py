"""How a shop stands that something else runs: who is registered in etcd, and who answers when asked."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import httpx
from google.protobuf import json_format
from mesh.v1 import registry_pb2

from services.chassis.bus.access import BusUnavailable
from services.chassis.bus.looking import Looking
from services.chassis.etcd import Etcd, EtcdUnavailable, Snapshot
from services.cli.places import Places, keys_url
from services.cli.settings import ENDPOINTS, SERVICES
from services.failure import Failure
from services.story.databases import Databases

ANSWER_S = 5.0
"""So long may one of them take."""
CONTROL_PLANES = "/shop/status/controlplane/"


@dataclass(frozen=True, slots=True)
class Row:
    """One part; `state` is ready, draining, away or missing."""

    name: str
    state: str
    address: str = ""
    version: str = ""
    why: str = ""
    """Of one that is away or missing."""

    @property
    def is_well(self) -> bool:
        return self.state in ("ready", "draining")


class _Unwell(Exception):
    """It answers, and not as it should."""


async def look(places: Places) -> list[Row]:
    """Instances first, then what they stand on, as far as it was told where that is. Raises Failure."""
    etcd = Etcd(places.etcd)
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_S) as web:
            asking = [_asked(name, address, ask) for name, address, ask in _questions(places, web)]
            registered, others = await asyncio.gather(_registered(places.etcd, etcd), asyncio.gather(*asking))
    finally:
        await etcd.close()
    return [*registered, *others]


async def _registered(address: str, etcd: Etcd) -> list[Row]:
    try:
        endpoints, planes = await asyncio.gather(etcd.get_prefix(ENDPOINTS), etcd.get_prefix(CONTROL_PLANES))
    except EtcdUnavailable as error:
        return [Row("etcd", "away", address, why=_words(error))]
    controlplanes = [Row(key.removeprefix(CONTROL_PLANES), "ready") for key in sorted(planes.entries)]
    return [
        *(row for service in SERVICES for row in _instances(service, endpoints)),
        *(controlplanes or [Row("controlplane", "missing", why="none tells etcd what it does")]),
        Row("etcd", "ready", address),
    ]


def _instances(service: str, endpoints: Snapshot) -> Iterator[Row]:
    states = set[str]()
    for key, entry in sorted(endpoints.entries.items()):
        if not key.startswith(f"{ENDPOINTS}{service}/"):
            continue
        record = registry_pb2.Endpoint()
        with suppress(json_format.ParseError, UnicodeDecodeError):  # what cannot be read is for others to judge
            json_format.Parse(entry.value, record, ignore_unknown_fields=True)
        state = registry_pb2.Endpoint.State.Name(record.state).removeprefix("STATE_").lower()
        states.add(state)
        yield Row(key.rpartition("/")[2], state, record.address, record.version)
    if "ready" not in states:
        yield Row(service, "missing", why="no instance is registered that takes calls")


def _questions(places: Places, web: httpx.AsyncClient) -> Iterator[tuple[str, str, Callable[[], Awaitable[object]]]]:
    """Name, address and what is asked of each that is not in etcd."""
    tokens = urlsplit(places.token_url)
    yield "edge", places.edge, partial(_page, web, f"http://{places.edge}/", also=(404,))
    yield "identity", tokens.netloc, partial(_page, web, keys_url(places.token_url))
    for admin in places.envoys():
        yield "envoy", admin, partial(_page, web, f"http://{admin}/ready")
    if places.known.get("postgres"):
        yield "postgres", places.postgres, lambda: _opened(Databases(places.databases(), ANSWER_S))
    if places.known.get("nats_url"):
        nats = urlsplit(places.nats_url).netloc.rpartition("@")[2]
        yield "nats", nats, lambda: _opened(Looking(places.nats_url, places.password("audit", "nats")))
    if places.known.get("telemetry"):
        yield "telemetry", places.telemetry, partial(_page, web, f"http://{places.telemetry}/api/status")
    if places.known.get("mail"):
        yield "mail", places.mail, partial(_page, web, f"http://{places.mail}/api/v1/messages?limit=1")


async def _asked(name: str, address: str, ask: Callable[[], Awaitable[object]]) -> Row:
    try:
        async with asyncio.timeout(ANSWER_S):
            await ask()
    except (httpx.HTTPError, BusUnavailable, Failure, TimeoutError, _Unwell) as error:
        return Row(name, "away", address, why=_words(error))
    return Row(name, "ready", address)


async def _page(web: httpx.AsyncClient, url: str, also: tuple[int, ...] = ()) -> None:
    answer = await web.get(url)
    if answer.status_code not in (200, *also):
        raise _Unwell(f"answers {answer.status_code}")


async def _opened(one: Looking | Databases) -> None:
    async with one:
        pass


def _words(error: BaseException) -> str:
    """In one line; what a wrapper does not say is said by what it wraps."""
    told = error.__cause__ or error
    return " ".join(str(told).removesuffix(": see `shopmesh status`").split()) or type(told).__name__
