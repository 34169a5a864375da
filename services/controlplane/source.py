"""What etcd says: who runs where, and how calls are to be carried. The only part that knows etcd."""

import asyncio
import ipaddress
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from itertools import batched

from mesh.v1 import policy_pb2, registry_pb2

from services.chassis import logs
from services.chassis.documents import DocumentRefused, effective
from services.chassis.etcd import Change, Etcd, Snapshot, patiently
from services.controlplane.kept import Kept
from services.controlplane.model import Endpoint, Seen, State
from services.controlplane.seeds import Seeds

_log = logs.get()


class Documents[T]:
    """The keys below one prefix, parsed. A bad document is refused, and the last good one under its key stays."""

    def __init__(self, prefix: str, parse: Callable[[str, bytes], T]) -> None:
        self.prefix = prefix
        self.by_name: dict[str, T] = {}
        self.listed = False
        self._parse = parse
        self._raw: dict[str, bytes] = {}
        self._revision = 0
        self._standings: dict[str, registry_pb2.AppliedDocument] = {}

    def standing(self, name: str) -> registry_pb2.AppliedDocument:
        """Which revision of a document holds, and what was refused since."""
        return self._standings.get(name, registry_pb2.AppliedDocument(revision=0))

    @property
    def raw(self) -> dict[str, bytes]:
        """The good documents as they were written, by key."""
        return {self.prefix + name: document for name, document in self._raw.items()}

    def take(self, event: Snapshot | Change) -> None:
        """Applies what the watch told, but for changes that the last snapshot knew."""
        match event:
            case Snapshot():
                before, self.by_name = self.by_name, {}
                raw, self._raw = self._raw, {}
                for key, entry in event.entries.items():
                    self._put(key, entry.value, entry.revision, before, raw)
                self._standings = {
                    name: standing for name, standing in self._standings.items() if self.prefix + name in event.entries
                }
                self.listed, self._revision = True, event.revision
            case Change() if event.revision <= self._revision:
                pass
            case Change(value=None):
                name = event.key.removeprefix(self.prefix)
                self.by_name.pop(name, None)
                self._raw.pop(name, None)
                self._standings.pop(name, None)
            case Change(value=bytes() as value):
                self._put(event.key, value, event.revision, self.by_name, self._raw)

    def _put(self, key: str, value: bytes, revision: int, before: dict[str, T], raw: dict[str, bytes]) -> None:
        name = key.removeprefix(self.prefix)
        try:
            self.by_name[name], self._raw[name] = self._parse(name, value), value
            self._standings[name] = registry_pb2.AppliedDocument(revision=revision)
        except DocumentRefused as error:
            refused = registry_pb2.DocumentRefusal(revision=revision, reason=str(error))
            refused.time.GetCurrentTime()
            self._standings[name] = registry_pb2.AppliedDocument(revision=self.standing(name).revision, refused=refused)
            _log.error("document refused", key=key, error=str(error), kept=name in before)
            if name in before:
                self.by_name[name], self._raw[name] = before[name], raw[name]


class Source:
    """The watched part of etcd, for the services of the contracts; what is kept for others is ignored.

    What operators wrote survives a wipe of etcd: the last copy of it, `kept`, is put back.
    """

    def __init__(
        self,
        etcd: Etcd,
        prefix: str,
        services: Iterable[str],
        seeds: Seeds,
        kept: Kept,
        tell: Callable[[str, registry_pb2.AppliedDocument], None],
    ) -> None:
        """`tell` hears of each policy, by its key below the prefix, which revision of it holds."""
        self._tell = tell
        self._etcd = etcd
        self._seeded = f"{prefix}seeded"
        self._kept = kept
        self._services = frozenset(services)
        self._seeds = seeds
        self._default_sampling = {service: seeds.sampling_percent(service) for service in self._services}
        self._seen = Seen({}, seeds.policies, self._default_sampling)
        self._endpoints = Documents(f"{prefix}endpoints/", endpoint)
        self._policies = Documents(f"{prefix}policy/", self._policy)
        self._sampling = Documents(f"{prefix}config/", self._sampling_percent)

    async def follow(self, see: Callable[[Seen], None]) -> None:
        """Shows what etcd says, whenever it says something new; the first time when all of it has been listed.

        Every single change is shown: nobody misses an instance that drains and leaves in one breath. Never ends.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(self._endpoints, self._note_endpoints, see))
            group.create_task(self._watch(self._policies, self._note_policies, see))
            group.create_task(self._watch(self._sampling, self._note_sampling, see))

    async def _watch[T](
        self, documents: Documents[T], note: Callable[[str | None], None], see: Callable[[Seen], None]
    ) -> None:
        async with aclosing(self._etcd.watch_prefix(documents.prefix)) as watch:
            async for event in watch:
                if isinstance(event, Snapshot) and documents is not self._endpoints:
                    # Nobody sees a wiped etcd before the documents have been put back into it.
                    event = await patiently("listing")(self._seeded_listing, documents.prefix)
                documents.take(event)
                note(event.key.removeprefix(documents.prefix) if isinstance(event, Change) else None)
                if self._policies.listed and self._sampling.listed:
                    if documents is not self._endpoints:
                        self._kept.keep(self._policies.raw | self._sampling.raw)
                    if self._endpoints.listed:
                        see(self._seen)

    async def _seeded_listing(self, prefix: str) -> Snapshot:
        """What is there once etcd has the key that says "not wiped"; of several control planes one writes it.

        Documents that somebody has written since the wipe stay. Raises EtcdUnavailable.
        """
        while await self._etcd.get(self._seeded) is None:
            kept = self._kept.documents
            missing = {key: document for key, document in kept.items() if await self._etcd.get(key) is None}
            puts = [*missing.items(), (self._seeded, b"{}")]
            for batch in batched(puts, _MOST_PUTS):
                keys = {key for key, _ in batch}
                if not await self._etcd.commit(dict(batch), unchanged=dict.fromkeys(keys | {self._seeded}, 0)):
                    break  # another control plane or an operator was quicker: look again
            else:
                if missing:
                    _log.warning("etcd was wiped: the last good documents are put back", keys=sorted(missing))
        return await self._etcd.get_prefix(prefix)

    def _note_endpoints(self, changed: str | None) -> None:
        """Only the service of the one that changed gets a new mapping, or where all are listed, who differs (Seen)."""
        before, by_name = self._seen.endpoints, self._endpoints.by_name
        if changed is not None:
            service, _, instance = changed.partition("/")
            if service not in self._services:
                return
            instances = {**before.get(service, {})}
            if changed in by_name:
                instances[instance] = by_name[changed]
            else:
                instances.pop(instance, None)
            self._seen = replace(self._seen, endpoints={**before, service: instances})
            return
        listed: dict[str, dict[str, Endpoint]] = {}
        for name, endpoint in by_name.items():
            service, _, instance = name.partition("/")
            if service in self._services:
                listed.setdefault(service, {})[instance] = endpoint
        same = {service: before[service] for service in listed if listed[service] == before.get(service)}
        self._seen = replace(self._seen, endpoints={**listed, **same})

    def _note_policies(self, _changed: str | None) -> None:
        self._seen = replace(self._seen, policies={**self._seeds.policies, **self._policies.by_name})
        for service in self._services:
            self._tell(f"policy/{service}", self._policies.standing(service))

    def _note_sampling(self, _changed: str | None) -> None:
        self._seen = replace(self._seen, sampling={**self._default_sampling, **self._sampling.by_name})

    def _policy(self, service: str, document: bytes) -> policy_pb2.Policy:
        return self._seeds.policy(self._known(service), document)

    def _sampling_percent(self, service: str, document: bytes) -> float:
        return self._seeds.sampling_percent(self._known(service), document)

    def _known(self, service: str) -> str:
        if service not in self._services:
            raise DocumentRefused(f"there is no service {service!r}")
        return service


_MOST_PUTS = 100
"""Of one transaction; etcd takes 128 operations."""


def endpoint(name: str, document: bytes) -> Endpoint:
    """Envoy's endpoint discovery takes addresses, never host names."""
    record = effective(registry_pb2.Endpoint(), document)
    if "/" not in name:
        raise DocumentRefused("the key has no instance")
    try:
        ipaddress.ip_address(record.address.rpartition(":")[0].strip("[]"))
    except ValueError as error:
        raise DocumentRefused(f"address: {error}") from error
    draining = record.state == registry_pb2.Endpoint.STATE_DRAINING
    return Endpoint(
        record.address,
        State.DRAINING if draining else State.READY,
        record.version,
        record.start_time.ToMicroseconds() / 1e6,
    )
