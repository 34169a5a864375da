"""Which process goes by which revision of a document: what etcd has, beside what the processes tell."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from mesh.v1 import registry_pb2

from services.chassis.etcd import Etcd
from services.cli.documents.revisions import PREFIX, Held, Kind, read

CONTROL_PLANE = "controlplane"


@dataclass(frozen=True, slots=True)
class Applied:
    """One document as one process has it; `state` is applied, lags, refused or silent."""

    service: str
    held: Held
    process: str
    revision: int | None
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """All of them, and what Envoys have refused, as (control plane, refusal)."""

    kind: Kind
    applied: Sequence[Applied]
    envoy_refusals: Sequence[tuple[str, registry_pb2.EnvoyRefusal]]

    @property
    def well(self) -> bool:
        return bool(self.applied) and not self.envoy_refusals and all(row.state == "applied" for row in self.applied)

    @property
    def waited_for(self) -> bool:
        """Whether a moment may bring more; what was refused stays refused."""
        return not self.applied or any(row.state in ("lags", "silent") for row in self.applied)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """A table with its head; revision 0 is shown as `-`: there is no document."""
        yield "service", "etcd", "process", "runs", "state"
        for row in self.applied:
            yield row.service, _shown(row.held.applied), row.process, _shown(row.revision), row.state

    def trouble(self) -> Iterator[str]:
        """What was refused and why, and what mends it."""
        if not self.applied:
            yield "no process tells what it goes by: does the shop run?"
        for row in self.applied:
            if row.reason:
                yield f"{row.process} refuses the {self.kind.name} of {row.service}: {row.reason}"
        for process, refusal in self.envoy_refusals:
            kind = refusal.type_url.rpartition(".")[2]
            yield f"Envoy {refusal.node} refuses {kind} of {process}, and goes on with the last good: {refusal.reason}"
        for service in dict.fromkeys(row.service for row in self.applied if row.state == "refused"):
            command = f"shopmesh {self.kind.name}"
            yield f"mend it: `{command} edit {service}`, or `{command} rollback {service}`"

    def as_object(self) -> dict[str, Any]:
        """For programs."""
        return {
            "well": self.well,
            "documents": [
                {"service": row.service, "etcd_revision": row.held.applied, "process": row.process,
                 "revision": row.revision, "state": row.state, "reason": row.reason}
                for row in self.applied
            ],
            "envoy_refusals": [
                {"process": process, "node": refusal.node, "type_url": refusal.type_url, "reason": refusal.reason}
                for process, refusal in self.envoy_refusals
            ],
        }  # fmt: skip


async def look(etcd: Etcd, kind: Kind, services: Sequence[str], wait_s: float = 0.0) -> Told:
    """As soon as nobody lags, at the latest after `wait_s`."""
    end = time.monotonic() + wait_s
    while True:
        told = await _look(etcd, kind, services)
        if not told.waited_for or time.monotonic() >= end:
            return told
        await asyncio.sleep(0.05)


async def _look(etcd: Etcd, kind: Kind, services: Sequence[str]) -> Told:
    """Who is registered and tells nothing is silent. Policies concern control planes, configurations everybody."""
    held = await read(etcd, kind, services)
    endpoints = await etcd.get_prefix(f"{PREFIX}endpoints/")
    records = await etcd.get_prefix(f"{PREFIX}status/")
    statuses = {
        tuple(key.removeprefix(f"{PREFIX}status/").split("/", 1)): json_format.Parse(
            entry.value, registry_pb2.Status(), ignore_unknown_fields=True
        )
        for key, entry in records.entries.items()
    }
    registered = {tuple(key.removeprefix(f"{PREFIX}endpoints/").split("/", 1)) for key in endpoints.entries}
    rows = list[Applied]()
    for service in services:
        document = f"{kind.name}/{service}"
        tells = [name for name in sorted(statuses) if document in statuses[name].documents]
        rows += [_compared(service, held[service], name[1], statuses[name].documents[document]) for name in tells]
        due = {name for name in registered if kind.name == "config" and name[0] == service}
        rows += [Applied(service, held[service], name[1], None, "silent") for name in sorted(due - {*tells})]
        if kind.name == "policy" and not tells:
            rows.append(Applied(service, held[service], CONTROL_PLANE, None, "silent"))
    refusals = [(name[1], refusal) for name, status in sorted(statuses.items()) for refusal in status.envoy_refusals]
    return Told(kind, rows, refusals if kind.name == "policy" else [])


def _compared(service: str, held: Held, process: str, told: registry_pb2.AppliedDocument) -> Applied:
    if told.HasField("refused") and told.refused.revision == held.applied:
        return Applied(service, held, process, told.revision, "refused", told.refused.reason)
    state = "applied" if told.revision == held.applied else "lags"
    return Applied(service, held, process, told.revision, state)


def _shown(revision: int | None) -> str:
    return "?" if revision is None else str(revision or "-")
