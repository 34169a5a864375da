"""The worker loop, over jobs in memory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from services.chassis.worker import Failed, Worker, each
from tests.support.waiting import eventually


class Dishes:
    """Washes what stands in `dirty`; what cannot be washed comes back."""

    name = "dishes"

    def __init__(self, *dirty: str) -> None:
        self.dirty = list(dirty)
        self.clean: list[str] = []
        self.errors: list[str] = []
        self.batches: list[int] = []
        self.broken_claims = self.broken_acts = 0
        self.may_wash = asyncio.Event()
        self.may_wash.set()

    async def claim(self, most: int) -> Sequence[str]:
        if self.broken_claims:
            self.broken_claims -= 1
            raise ConnectionError("no water")
        now, self.dirty = self.dirty[:most], self.dirty[most:]
        self.batches.append(len(now))
        return now

    async def act(self, items: Sequence[str]) -> Sequence[str | Failed]:
        await self.may_wash.wait()
        if self.broken_acts:
            self.broken_acts -= 1
            raise ConnectionError("no soap")
        return await each(self.wash, items, at_once=4)

    async def wash(self, dish: str) -> str:
        if dish == "cracked":
            raise ValueError("it broke")
        return dish.upper()

    async def settle(self, outcomes: Sequence[tuple[str, str | Failed]]) -> None:
        for item, outcome in outcomes:
            if isinstance(outcome, Failed):
                self.errors.append(f"{item}: {outcome.error}")
            else:
                self.clean.append(outcome)


@asynccontextmanager
async def at_work(
    job: Dishes, batch: int = 64, poll_s: float = 30.0, breath_s: float = 0.0
) -> AsyncIterator[Worker[str, str]]:
    worker = Worker(job, batch=batch, poll_s=poll_s, gather_s=0, breath_s=breath_s)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        assert running.cancelled()


async def washed(job: Dishes, *dishes: str) -> None:
    async def look() -> bool:
        return sorted(job.clean) == sorted(dishes)

    await eventually(look, f"{dishes} are clean, clean are {job.clean}")


async def test_a_full_batch_is_followed_by_the_next_at_once() -> None:
    job = Dishes(*"abcde")
    async with at_work(job, batch=2):
        await washed(job, *"ABCDE")
    assert job.batches == [2, 2, 1]


async def test_between_full_batches_the_process_has_time_for_others() -> None:
    job = Dishes(*"abcde")
    begun = asyncio.get_running_loop().time()
    async with at_work(job, batch=2, breath_s=0.1):
        await washed(job, *"ABCDE")
    assert asyncio.get_running_loop().time() - begun >= 0.2


async def test_a_woken_worker_does_not_wait_for_its_poll() -> None:
    job = Dishes("a")
    async with at_work(job) as worker:
        await washed(job, "A")
        job.dirty.append("b")
        worker.wake()
        await washed(job, "A", "B")


async def test_waking_it_while_it_works_makes_it_look_again() -> None:
    job = Dishes("a")
    job.may_wash.clear()
    async with at_work(job) as worker:

        async def claimed() -> bool:
            return job.batches == [1]

        await eventually(claimed, "it works")
        job.dirty.append("b")
        worker.wake()
        job.may_wash.set()
        await washed(job, "A", "B")


async def test_what_nobody_woke_it_for_is_found_by_polling() -> None:
    job = Dishes()
    async with at_work(job, poll_s=0.02):
        job.dirty.append("a")
        await washed(job, "A")


async def test_one_item_that_fails_hinders_no_other() -> None:
    job = Dishes("a", "cracked", "b")
    async with at_work(job):
        await washed(job, "A", "B")
    assert job.errors == ["cracked: ValueError: it broke"]


@pytest.mark.parametrize("broken", ["broken_claims", "broken_acts"])
async def test_errors_never_stop_the_loop(broken: str) -> None:
    job = Dishes("a", "b")
    setattr(job, broken, 1)
    async with at_work(job) as worker:
        if broken == "broken_acts":

            async def failed() -> bool:
                return len(job.errors) == 2

            await eventually(failed, "both items have failed")
            assert job.errors[0] == "a: ConnectionError: no soap"
            job.dirty = ["a", "b"]
            worker.wake()
        await washed(job, "A", "B")


async def test_a_cancelled_worker_settles_what_it_has_claimed() -> None:
    job = Dishes("a")
    job.may_wash.clear()
    running = asyncio.create_task(Worker(job).run())

    async def claimed() -> bool:
        return job.batches == [1]

    await eventually(claimed, "it works")
    running.cancel()
    asyncio.get_running_loop().call_later(0.05, job.may_wash.set)
    with suppress(asyncio.CancelledError):
        await running
    assert running.cancelled()
    assert job.clean == ["A"]


async def test_a_call_cancelled_inside_the_job_does_not_end_the_worker() -> None:
    class Jumpy(Dishes):
        async def act(self, items: Sequence[str]) -> Sequence[str | Failed]:
            if self.broken_acts:
                self.broken_acts -= 1
                self.dirty.extend(items)
                raise asyncio.CancelledError
            return await super().act(items)

    job = Jumpy("a")
    job.broken_acts = 1
    async with at_work(job):
        await washed(job, "A")


async def test_each_keeps_the_order_and_the_bound() -> None:
    under_way = most = 0

    async def act(n: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return n * n

    assert await each(act, range(20), at_once=3) == [n * n for n in range(20)]
    assert most == 3
