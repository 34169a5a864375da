"""Whether a change holds yet: what the processes tell that go by a document, and of a policy, what Envoy does."""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from services.failure import Failure

if TYPE_CHECKING:
    from services.chassis.etcd import Etcd
    from services.cli.documents.applied import Told
    from services.cli.documents.revisions import Held, Kind

WAIT_S = 10.0
"""So long may a change take: as the lease of who died without a word."""
ASK_EVERY_S = 0.1

with_no_wait = click.option("--no-wait", is_flag=True, help="Return when it is written, before it is in effect.")


@dataclass(frozen=True, slots=True)
class _Seen:
    where: str
    lacking: Sequence[str] = ()
    """Who does not go by it, and why."""
    final: bool = False
    """It will not come to hold by itself."""


async def wait(
    etcd: "Etcd", kind: "Kind", before: Mapping[str, "Held"], envoys: Sequence[str], within_s: float = WAIT_S
) -> str:
    """Returns when what etcd has for these services holds everywhere, and tells where, and after what time.

    `before` is what it had before the change; `envoys` are the admin pages of those that are to be asked.
    Raises Failure, with what does not go by it and why.
    """
    began = time.monotonic()
    try:
        while (seen := await _look(etcd, kind, before, envoys)).lacking:
            if seen.final or time.monotonic() > began + within_s:
                lines = "".join(f"\n  {line}" for line in seen.lacking)
                raise Failure(f"written, but not in effect after {time.monotonic() - began:.1f} s:{lines}")
            await asyncio.sleep(ASK_EVERY_S)
    except asyncio.CancelledError:
        click.echo(f"written; `shopmesh {kind.name} status` tells whether it is in effect", err=True)
        raise
    if not seen.where:
        return f"no instance of {', '.join(before)} is registered: it is in effect where one starts"
    return f"{seen.where} after {time.monotonic() - began:.1f} s"


async def _look(etcd: "Etcd", kind: "Kind", before: Mapping[str, "Held"], envoys: Sequence[str]) -> _Seen:
    from services.chassis.etcd import EtcdUnavailable
    from services.cli.documents.applied import look

    try:
        told = await look(etcd, kind, [*before])
    except EtcdUnavailable:
        return _Seen("", ["etcd does not answer"])
    processes = [row.process for row in told.applied]
    where = f"in effect at {processes[0]}" if len(processes) == 1 else f"in effect at all {len(processes)} instances"
    if lacking := [*_behind(told)]:
        return _Seen("", lacking, final=not told.waited_for)
    if kind.name == "policy" and envoys:
        where = "in effect in Envoy" if len(envoys) == 1 else f"in effect in all {len(envoys)} Envoys"
        differing = await asyncio.gather(*(_not_in_envoy(told, before, admin) for admin in envoys))
        lines = [(admin, line) for admin, lacking in zip(envoys, differing, strict=True) for line in lacking]
        return _Seen(where, [line if len(envoys) == 1 else f"{admin}: {line}" for admin, line in lines])
    return _Seen(where if processes else "")


def _behind(told: "Told") -> Iterator[str]:
    for row in told.applied:
        if row.state == "refused":
            yield f"{row.process} refuses the {told.kind.name} of {row.service}: {row.reason}"
        elif row.state == "silent":
            yield f"{row.process} does not tell what it goes by: see `shopmesh status`"
        elif row.state == "lags":
            yield f"{row.process} goes by {f'revision {row.revision}' if row.revision else 'the defaults'}"


async def _not_in_envoy(told: "Told", before: Mapping[str, "Held"], admin: str) -> list[str]:
    """A control plane that goes by a policy has told it to Envoy, or is about to."""
    from services.cli.local.readiness import REFUSALS, http
    from services.cli.mesh.explain import Asked, differences

    host, _, port = admin.rpartition(":")
    try:
        _, answer = await http(int(port), "/config_dump", host=host.strip("[]"))
        dump = json.loads(answer)
    except REFUSALS:
        return ["Envoy does not answer: see `shopmesh status`"]
    found = dict[str, None]()
    for row in told.applied:
        seed = told.kind.whole(row.service, None)
        then, now = (
            Asked(seed, _said(told.kind, row.service, held), held.applied) for held in (before[row.service], row.held)
        )
        found |= {f"Envoy, {row.service}: {what}": None for what in differences(dump, now, row.service, then)}
    refusals = [f"Envoy refuses what {process} tells it: {refusal.reason}" for process, refusal in told.envoy_refusals]
    return [*refusals, *found] if found else []  # who refuses something else does as asked here


def _said(kind: "Kind", service: str, held: "Held") -> Mapping[str, Any]:
    from services.chassis.documents import DocumentRefused

    try:
        return kind.fields(service, held.text)
    except DocumentRefused:  # written past us: nobody goes by it
        return {}
