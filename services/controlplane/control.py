"""From what etcd says to what Envoy is told: the model over time."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from services.chassis import logs
from services.controlplane import last_good
from services.controlplane.latest import Latest
from services.controlplane.model import Model, Seen, differing
from services.controlplane.moves import Moves
from services.controlplane.resources import Resources
from services.controlplane.snapshot import Snapshot

# Between two writings so many times what one takes. A control plane that is killed goes on with what was true then,
# until etcd has told: with few instances some milliseconds ago, with thousands half a second.
_PAUSE = 4

_log = logs.get()


class Control:
    """Keeps the model; publishes a snapshot when one differs from the last."""

    def __init__(self, resources: Resources, file: Path, now: Callable[[], float]) -> None:
        """`now` is a monotonic clock in seconds; `file` keeps what was seen last."""
        self.models = Latest[Model]()
        self.snapshots = Latest[Snapshot]()
        self._resources = resources
        self._file = file
        self._now = now
        self._model = Model()
        self._moves = Moves()
        self._news: asyncio.Queue[Seen] = asyncio.Queue()

    def see(self, seen: Seen) -> None:
        """Takes what etcd says now."""
        self._news.put_nowait(seen)

    def name_at(self, service: str, address: str) -> str:
        """Of the instance of a service that listens there; empty when it is not known."""
        instances = self._model.of(service).items()
        return next((name for name, endpoint in instances if endpoint.address == address), "")

    async def run(self, services: frozenset[str]) -> None:
        """Goes on with what was seen before the last stop, until etcd has told; then follows it. Never ends."""
        if (restored := last_good.load(self._file, services)) is not None:
            self._publish(Model.restored(restored, self._now()))
            _log.info("going on with the last good model", endpoints=sum(map(len, restored.endpoints.values())))
        keeping = asyncio.create_task(self._keep())
        try:
            while True:
                self._publish(await self._next())
        finally:
            keeping.cancel()

    async def _keep(self) -> None:
        """Writes what was seen, soon after: no change waits for the disk. The last one is written at the end."""
        written, number = None, self.models.number
        try:
            while True:
                await self.models.beyond(number)
                number, seen = self.models.number, self._model.remembered
                if seen != written:
                    began = self._now()
                    await asyncio.to_thread(last_good.save, self._file, seen)
                    written = seen
                    await asyncio.sleep(_PAUSE * (self._now() - began))
        finally:
            if self.models.number != number:
                last_good.save(self._file, self._model.remembered)

    async def _next(self) -> Model:
        """After the next news, several at once when they came together, or when something's time is over."""
        due = min((at for at in (self._model.next_change, self._moves.next_change) if at is not None), default=None)
        try:
            async with asyncio.timeout(None if due is None else max(0.0, due - self._now())):
                seen = await self._news.get()
        except TimeoutError:
            return self._model.settled(self._now())
        model = self._model.see(seen, self._now())
        while not self._news.empty():
            model = model.see(self._news.get_nowait(), self._now())
        return model

    def _publish(self, model: Model) -> None:
        self._tell(model)
        self._model = model
        self.models.put(model)
        policies = self._moves.told(model.seen.policies, self._now())
        snapshot = self._resources.of(replace(model, seen=replace(model.seen, policies=policies)))
        if self.snapshots.value is not snapshot:
            self.snapshots.put(snapshot)

    def _tell(self, model: Model) -> None:
        for service in sorted(differing(self._model.endpoints, model.endpoints)):
            before, after = self._model.of(service), model.of(service)
            for instance in sorted(before.keys() | after.keys()):
                if before.get(instance) != after.get(instance):
                    _log.info(
                        "endpoint",
                        of=service,
                        name=instance,
                        address=(after.get(instance) or before[instance]).address,
                        state=after[instance].state.value if instance in after else "gone",
                    )
        for name in sorted(model.lost.keys() - self._model.lost.keys()):
            _log.warning("endpoint vanished without draining: held", of=name.service, name=name.instance)
