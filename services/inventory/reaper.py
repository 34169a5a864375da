"""Ends holds whose time is over, again and again."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from services.chassis import logs
from services.chassis.metrics import Counter
from services.inventory.use_cases import Warehouse
from services.refusals import Unavailable

log = logs.get()
_expired = Counter("shop.inventory.holds.expired", "{reservation}", "Holds that ended because their time was over.")


class Reaper:
    """As many as there are replicas may run side by side: each passes over what another has in hand."""

    def __init__(self, warehouse: Warehouse, interval: Callable[[], timedelta]) -> None:
        self._warehouse, self._interval = warehouse, interval
        self._interval_changed = asyncio.Event()

    def interval_changed(self) -> None:
        """The pause under way ends: it may be far longer than the new one."""
        self._interval_changed.set()

    async def run(self) -> None:
        """Never ends but by cancellation."""
        while True:
            self._interval_changed.clear()
            try:
                await self._lapse_overdue()
            except Unavailable as refusal:
                # The holds stay good meanwhile: state decides, not the clock.
                log.warning("holds cannot be ended now", reason=refusal.reason)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval().total_seconds()):
                    await self._interval_changed.wait()

    async def _lapse_overdue(self) -> None:
        ended = 0
        while await self._warehouse.lapse_one():
            ended += 1
            _expired.add()
        if ended:
            log.info("holds expired", holds=ended)
