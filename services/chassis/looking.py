"""Numbers that only a store can tell, asked for beside the calls: what waits, how long, how much.

Every 15 s, and once a second while the store is away, so that they are known again as soon as it is back. The
statement must be cheap however much there is: of one index, with a limit. Every replica asks, and says the same.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import override

from services.chassis.metrics import Gauge
from services.chassis.worker import Failed, Job

EVERY_S = 15.0


class Look(Job[None, None]):
    """A job for a Worker that has nothing to do afterwards."""

    def __init__(self, name: str, look: Callable[[], Awaitable[None]], *gauges: Gauge) -> None:
        """`look` sets the gauges. While it cannot, they say nothing: an old number would be a lie.

        `name` is how its log lines and `shopmesh.worker.failures` tell it from others of the process.
        """
        self._name, self._look, self._gauges = name, look, gauges

    @property
    @override
    def name(self) -> str:
        return self._name

    @override
    async def claim(self, most: int) -> Sequence[None]:
        try:
            await self._look()
        except BaseException:
            for gauge in self._gauges:
                gauge.forget()
            raise
        return ()

    @override
    async def act(self, items: Sequence[None]) -> Sequence[Failed | None]:
        return ()

    @override
    async def settle(self, outcomes: Sequence[tuple[None, Failed | None]]) -> None:
        """There is nothing to settle."""
