"""What happens to the shop in containers while customers buy and read, and what each cost.

The first line of a docstring is its row in docs/faults.md.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.compose.customers import Customers, Seen, busy
from tests.compose.project import NEXT_IMAGE, ROOT, Container, Project, kill
from tests.compose.truth import becomes_true
from tests.support.waiting import eventually

BACK_S = 180.0
"""What was killed is well again by then: Keycloak on a slow machine."""

HEAD = (
    "| what happens | calls | failed | tries without an answer | orders | lost or doubled | mails that came twice "
    "| slowest call | all well again after |\n"
    "|---|---:|---:|---|---:|---:|---:|---:|---:|"
)  # fmt: skip

type Fault = Callable[[Project], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Row:
    """What a fault cost; nothing was lost or doubled, or there is no row."""

    fault: str
    seen: Seen
    twice: int
    well_after_s: float

    def __str__(self) -> str:
        codes = ", ".join(f"{number} x {code}" for code, number in sorted(self.seen.unanswered.items())) or "none"
        return (
            f"| {self.fault} | {self.seen.calls} | {len(self.seen.failed)} | {codes} | {len(self.seen.acknowledged)} "
            f"| 0 | {self.twice} | {self.seen.slowest_s:.1f} s | {self.well_after_s:.0f} s |"
        )


async def under(what: str, fault: Fault, project: Project, customers: Customers) -> Row:
    """Lets it happen while customers buy. Raises AssertionError when afterwards not everything is as it must be."""
    async with busy(customers) as (seen, product):
        began = time.monotonic()
        await fault(project)
        await project.all_well(BACK_S)
        took = time.monotonic() - began
    return Row(what, seen, await becomes_true(project, seen, product), took)


def killed(service: str) -> Fault:
    """Each of its containers, one after the other; the next when the one before is well again."""

    async def fault(project: Project) -> None:
        for one in await asyncio.to_thread(project.containers, service):
            await asyncio.to_thread(kill, one)
            await _back(project, one)

    return fault


def rolled(service: str) -> Fault:
    """Its containers are replaced by ones of the next image, as operators do it."""

    async def fault(project: Project) -> None:
        before = {one.id for one in await asyncio.to_thread(project.containers, service)}
        with project.image(NEXT_IMAGE):
            await asyncio.to_thread(project.run, [str(ROOT / "deploy" / "compose" / "roll"), service])
        after = await asyncio.to_thread(project.containers, service)
        assert len(after) == len(before)
        assert not before & {one.id for one in after}
        assert {one.image for one in after} == {NEXT_IMAGE}

    return fault


async def _back(project: Project, killed: Container) -> None:
    async def look() -> bool:
        found = await asyncio.to_thread(project.containers, killed.service)
        [now] = [one for one in found if one.id == killed.id]
        return now.well and now.pid not in {0, killed.pid}

    await eventually(look, f"{killed.name} is back", BACK_S)
