"""`shopmesh mesh`: who runs where, how many calls go there, and how they end."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import click
import httpx
from google.protobuf import json_format
from google.protobuf.message import Message
from mesh.v1 import registry_pb2
from rich.console import Console
from rich.live import Live
from rich.table import Table

from services.chassis.etcd import Entry, Etcd, EtcdUnavailable
from services.cli.mesh.envoy_admin import CLUSTERS, STATS, Envoy, hosts, traffic
from services.cli.mesh.envoy_config import ANYBODY, ways
from services.cli.mesh.explain import EDGE, Asked, figures, limits, rpcs_of, told
from services.cli.mesh.view import Reading, Service, refusals, view
from services.cli.places import Places
from services.failure import Failure
from services.files import resource

EVERY_S = 1.0
ANSWER_S = 2.0
PREFIX = "/shop/"


class Watched:
    """etcd and the admin pages of all Envoys of a shop."""

    def __init__(self, places: Places, etcd: Etcd, web: httpx.AsyncClient) -> None:
        self._places, self.etcd, self._web = places, etcd, web

    async def read(self) -> Reading:
        """What all say now. Any may be away: this is looked at when something is wrong."""
        at, admins = time.monotonic(), await asyncio.to_thread(self._places.envoys)
        documents, envoys = await asyncio.gather(self._documents(), asyncio.gather(*map(self._envoy, admins)))
        answered = {admin: envoy for admin, envoy in zip(admins, envoys, strict=True) if envoy}
        folder = self._places.folder
        parts = {part["name"]: (part["state"], part["address"]) for part in (folder.read()["parts"] if folder else ())}
        return Reading(
            at,
            parts,
            None
            if documents is None
            else {
                key: _parsed(entry, registry_pb2.Endpoint()) for key, entry in _below("endpoints/", documents).items()
            },
            {service: entry.revision for service, entry in _below("policy/", documents or {}).items()},
            tuple(
                _parsed(entry, registry_pb2.Status())
                for entry in _below("status/controlplane/", documents or {}).values()
            ),
            answered,
            len(admins) - len(answered),
        )

    async def explained(self, caller: str, service: str) -> list[str]:
        """How calls from one to the other are carried, in lines. Raises Failure when Envoy or etcd is away."""
        now = await self.read()
        if not now.envoys:
            raise Failure("Envoy does not answer: see `shopmesh status`")
        admin = min(now.envoys)
        try:
            answer = await self._web.get(f"http://{admin}/config_dump", timeout=10)
            entry = await self.etcd.get(f"{PREFIX}policy/{service}")
        except (httpx.HTTPError, EtcdUnavailable) as error:
            who = "etcd" if isinstance(error, EtcdUnavailable) else "Envoy"
            raise Failure(f"{who} does not answer: see `shopmesh status`") from None
        seed = json.loads(resource(f"etcd/seed/policy/{service}.json").read_text())
        asked = Asked(seed, _fields(entry), entry.revision if entry else 0)
        (shown,) = [each for each in view(now, now) if each.service == service]
        listener = f"edge, {self._places.edge}" if caller == EDGE else f"mesh, {self._places.mesh}, authority {service}"
        return [
            f"{caller} -> {service}: by Envoy's listener {listener}",
            *(
                [f"Envoy:   the one with admin page {admin}; there are {len(now.envoys)}"]
                if len(now.envoys) > 1
                else ()
            ),
            f"policy:  {shown.policy}",
            f"[seed] is etcd/seed/policy/{service}.json, [etcd N] revision N of {PREFIX}policy/{service}",
            *(f"refused: {why}" for why in refusals(now, service)),
            f"breaker: {shown.breaker}",
            *_page(answer.json(), asked, caller, shown),
        ]

    async def _documents(self) -> dict[str, Entry] | None:
        """By key below the prefix."""
        prefixes = ("endpoints/", "policy/", "status/controlplane/")
        try:
            found = await asyncio.gather(*(self.etcd.get_prefix(PREFIX + prefix) for prefix in prefixes))
        except EtcdUnavailable:
            return None
        return {key.removeprefix(PREFIX): entry for each in found for key, entry in each.entries.items()}

    async def _envoy(self, admin: str) -> Envoy | None:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            answers = await asyncio.gather(*(self._web.get(f"http://{admin}{page}") for page in (CLUSTERS, STATS)))
            clusters, stats = (answer.raise_for_status().json() for answer in answers)
            return Envoy(hosts(clusters), traffic(stats))
        return None


@asynccontextmanager
async def watched(places: Places) -> AsyncGenerator[Watched]:
    """Connected to etcd while it is open."""
    etcd = Etcd(places.etcd)
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_S) as web:
            yield Watched(places, etcd, web)
    finally:
        await etcd.close()


def show(places: Places, *, once: bool, as_json: bool) -> None:
    """Once, with the rates of one second; or on a terminal again and again until Ctrl-C."""
    console = Console(highlight=False)

    async def look() -> None:
        async with watched(places) as shop:
            before = await shop.read()
            with contextlib.ExitStack() as screen:
                live = None
                if not once and not as_json and console.is_terminal:
                    live = screen.enter_context(Live(console=console, auto_refresh=False))
                    live.update(table(view(before, before)), refresh=True)
                while True:
                    await asyncio.sleep(EVERY_S)
                    now = await shop.read()
                    services = view(before, now)
                    if live is None:
                        return _print(console, services, as_json=as_json)
                    live.update(table(services), refresh=True)
                    before = now

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(look())


def explain(places: Places, caller: str, service: str) -> None:
    """Prints it."""

    async def look() -> list[str]:
        async with watched(places) as shop:
            return await shop.explained(caller, service)

    for line in asyncio.run(look()):
        click.echo(line)


def _print(console: Console, services: list[Service], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([asdict(service) for service in services], indent=1))
        return
    if not console.is_terminal:
        console.width = 160  # whoever reads a pipe wants whole lines
    console.print(table(services))


def _page(dump: Mapping[str, Any], asked: Asked, caller: str, service: Service) -> Iterator[str]:
    name = service.service
    yield ""
    for each in service.instances:
        yield f"  {each.instance:20} {each.address:21} {each.version:10} {each.state:9} {each.health}"
    yield ""
    for what, figure in (*figures(dump, asked, name), *(limits(dump, asked, name) if caller == EDGE else ())):
        yield f"  {what:34} {figure}  [{figure.by}]"
    for rpc in rpcs_of(name):
        if not rpc.is_open_to(caller):
            continue
        yield f"\n  {rpc.method}  for {rpc.rule}  [contract]"
        routes = ways(dump, ANYBODY if caller == EDGE else name, rpc.path)
        if not routes:
            yield "    Envoy has no route for it"
        for route in routes:
            for what, figure in told(asked, caller, rpc, route).items():
                yield f"    {what:12} {figure}{f'  [{figure.by}]' if figure.by else ''}"


def _fields(entry: Entry | None) -> dict[str, Any]:
    """What a document says; nothing when it is not even JSON."""
    with contextlib.suppress(ValueError):
        found = json.loads(entry.value) if entry else {}
        return found if isinstance(found, dict) else {}
    return {}


def table(services: list[Service]) -> Table:
    """A line per service, with its policy and its breaker, and one per instance below it. Fits in 80 columns."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("service", "version", "state"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("calls/s", "failed", "refused", "p99"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for service in services:
        shown.add_row(
            service.service, f"policy {service.policy}", f"breaker {service.breaker}", _rate(service.calls_per_s),
            _rate(service.failed_per_s), _rate(service.refused_per_s),
            "-" if service.p99_ms is None else f"{service.p99_ms:.0f} ms",
            style="bold red" if service.breaker.startswith("open") else "bold",
        )  # fmt: skip
        for each in service.instances:
            well = each.health == "well" and each.state == "READY"
            state = each.state if each.health in ("well", "-") else f"{each.state}, {each.health}"
            shown.add_row(
                f"  {each.instance}", each.version, state, _rate(each.calls_per_s), _rate(each.failed_per_s), "", "",
                style="" if well else "yellow",
            )  # fmt: skip
    return shown


def _rate(per_s: float) -> str:
    return f"{per_s:.1f}" if per_s else "-"


def _below(prefix: str, documents: Mapping[str, Entry]) -> dict[str, Entry]:
    return {key.removeprefix(prefix): entry for key, entry in documents.items() if key.startswith(prefix)}


def _parsed[M: Message](entry: Entry, message: M) -> M:
    """As far as it can be read: this shows what is there, others judge it."""
    with contextlib.suppress(json_format.ParseError, UnicodeDecodeError):
        json_format.Parse(entry.value, message, ignore_unknown_fields=True)
    return message
