"""The one shape of asynchronous work: claim by lease, act with no transaction open, settle what is still ours.

A job's rows carry `claimed_until`: a replica that dies leaves its claims to the others when the lease is over.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from services.chassis import logs
from services.chassis.metrics import Counter
from services.chassis.patience import QUIET, describe, pause_s, told

GRACE_S = 2.0
"""How long a worker that is cancelled may take to settle what it has claimed."""

log = logs.get()
_items = Counter("shopmesh.worker.items", "{item}", "What workers have acted on.", "worker", "error.type")
_failures = Counter(
    "shopmesh.worker.failures", "{round}", "Rounds that a worker gave up, its store being away.", "worker"
)


@dataclass(frozen=True, slots=True)
class Failed:
    """In place of an item's result; `error` goes to its row."""

    error: str


class Job[Item, Result](Protocol):
    """What a worker does, in three steps that know nothing of loops."""

    @property
    def name(self) -> str: ...

    async def claim(self, most: int) -> Sequence[Item]:
        """Leases up to `most` items that are due, in one statement (`for update skip locked`, `claimed_until`)."""
        ...

    async def act(self, items: Sequence[Item]) -> Sequence[Result | Failed]:
        """One outcome per item, in their order, with no transaction open. Raising means that all have failed."""
        ...

    async def settle(self, outcomes: Sequence[tuple[Item, Result | Failed]]) -> None:
        """Writes the outcomes, in one statement, of those items whose lease is still ours. Backs off what Failed."""
        ...


class Worker[Item, Result]:
    """Runs a job whenever it is woken, and every `poll_s` for what nobody woke it for."""

    def __init__(
        self,
        job: Job[Item, Result],
        *,
        batch: int = 64,
        poll_s: float = 1.0,
        gather_s: float = 0.05,
        breath_s: float = 0.0,
    ) -> None:
        """`gather_s` after it was woken it claims, so that what comes close together is done together.

        `breath_s` between full batches belongs to what else the process does.
        """
        self._job, self._batch, self._poll_s, self._gather_s = job, batch, poll_s, gather_s
        self._breath_s = breath_s
        self._woken = asyncio.Event()
        self._failing = 0
        """Batches in a row in which something failed."""

    def wake(self) -> None:
        """To be called right after a commit that made work."""
        self._woken.set()

    async def run(self) -> None:
        """Never ends but by cancellation, and then what is claimed is settled first, within GRACE_S."""
        failures = 0
        while True:
            self._woken.clear()
            try:
                full = await finishing(self._round())
            except Exception as error:  # noqa: BLE001  the loop goes on, whatever the job or its store says
                if failures % QUIET == 0:
                    log.warning("job failed", job=self._job.name, failures=failures + 1, **told(error))
                _failures.add(self._job.name)
                await asyncio.sleep(pause_s(failures))
                failures += 1
            else:
                failures = 0
                if full:
                    await asyncio.sleep(self._breath_s)
                else:
                    await self._rest()

    async def _rest(self) -> None:
        try:
            # Not exactly: replicas started together shall not ask together for ever.
            async with asyncio.timeout(self._poll_s * random.uniform(0.8, 1.2)):  # noqa: S311
                await self._woken.wait()
                await asyncio.sleep(self._gather_s)
        except TimeoutError:
            pass

    async def _round(self) -> bool:
        """Whether the batch was full, so that there is probably more to do."""
        items = await self._job.claim(self._batch)
        if items:
            await self._job.settle(list(zip(items, await self._outcomes(items), strict=True)))
        return len(items) >= self._batch

    async def _outcomes(self, items: Sequence[Item]) -> Sequence[Result | Failed]:
        outcomes: Sequence[Result | Failed]
        try:
            outcomes = await self._job.act(items)
        except Exception as error:  # noqa: BLE001  every item's row tells what it was
            log.warning("job failed", job=self._job.name, **told(error))
            outcomes = [Failed(describe(error))] * len(items)
        failed = [outcome.error for outcome in outcomes if isinstance(outcome, Failed)]
        if failed and self._failing % QUIET == 0:
            log.warning("items failed", job=self._job.name, failed=len(failed), of=len(items), error=failed[0])
        self._failing = self._failing + 1 if failed else 0
        if failed:
            _items.add(self._job.name, "failed", by=len(failed))
        _items.add(self._job.name, "", by=len(items) - len(failed))
        return outcomes


async def each[Item, Result](
    act_one: Callable[[Item], Awaitable[Result | Failed]], items: Sequence[Item], *, at_once: int
) -> list[Result | Failed]:
    """Acts on the items side by side, `at_once` at most; one that raises is Failed and hinders no other."""
    gate = asyncio.Semaphore(at_once)

    async def one(item: Item) -> Result | Failed:
        async with gate:
            try:
                return await act_one(item)
            except Exception as error:  # noqa: BLE001  goes to the item's row
                return Failed(describe(error))

    return await asyncio.gather(*map(one, items))


async def finishing[T](work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`; when the caller is cancelled, `work` may end within GRACE_S before it is cancelled too.

    A CancelledError that comes from inside (some call of the work was cancelled) is a RuntimeError.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if caller is None or not caller.cancelling():
            raise RuntimeError("a call inside was cancelled") from None
        await asyncio.wait([task], timeout=GRACE_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise
