"""Who watches an order hears of each of its versions: one query for all watchers of a process together.

The versions are read from order_events. Nobody is registered and nothing is queued: a watcher says which version they
have and waits for what follows it. One who is busy, because their caller does not read, is asked for nothing meanwhile.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from uuid import UUID

from shop.order.v1 import order_pb2

from services.chassis import logs
from services.chassis.database import Database, Record
from services.chassis.patience import QUIET, told
from services.order.contract import order_message, order_of
from services.order.ports import Orders
from services.refusals import InvalidRequest, Unavailable

FINAL = {order_pb2.Order.STATE_REJECTED, order_pb2.Order.STATE_CANCELLED}

# A few versions of each: what a watcher is far behind with comes piece by piece, so that nobody takes much memory.
_NEXT = """
select watched.order_id, watched.version as after, said.version, said.type, said.payload
from unnest($1::uuid[], $2::int[]) as watched(order_id, version)
cross join lateral (
  select version, type, payload from order_events
  where order_id = watched.order_id and version > watched.version
  order by version
  limit 8
) said
order by watched.order_id, said.version"""

log = logs.get()


class Watching:
    """All watchers of this process."""

    def __init__(self, database: Database, orders: Orders, *, tick_s: float = 0.2, gather_s: float = 0.05) -> None:
        """Looks every `tick_s`, and `gather_s` after it was woken."""
        self._database, self._orders, self._tick_s, self._gather_s = database, orders, tick_s, gather_s
        self._waiting: dict[tuple[UUID, int], set[asyncio.Future[list[Record]]]] = {}
        """Who waits, by order and by the version that they have."""
        self._watched, self._woken = asyncio.Event(), asyncio.Event()

    async def versions(self, order_id: UUID, customer_id: str, after: int | None) -> AsyncGenerator[order_pb2.Order]:
        """The order as it is now, then each version that follows; all that follow `after` where that is given.

        Ends with the last one that there can be. Raises OrderNotFound, also for another customer's order, Unavailable,
        and InvalidRequest when the order has not come to `after` yet: nobody was told so by this shop.
        """
        present = await self._orders.get(order_id, customer_id)
        message = order_message(present)
        if after is None:
            yield message
            after = present.version
        elif after > present.version:
            raise InvalidRequest(("after_etag", "this order has had no such version"))
        if after == present.version and message.state in FINAL:
            return
        while True:
            for record in await self._next(order_id, after):
                message, after = order_of(record["type"], record["payload"]), record["version"]
                yield message
                if message.state in FINAL:
                    return

    def wake(self) -> None:
        """To be called right after a commit that changed an order."""
        self._woken.set()

    async def run(self) -> None:
        """Never ends but by cancellation. Asks nothing while nobody waits."""
        failures = 0
        while True:
            await self._watched.wait()
            self._woken.clear()
            try:
                await self._look()
            except Unavailable as refusal:
                if failures % QUIET == 0:
                    log.warning("watched orders cannot be looked at", failures=failures + 1, **told(refusal))
                failures += 1
            else:
                failures = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(self._tick_s):
                    await self._woken.wait()
                    await asyncio.sleep(self._gather_s)

    async def _look(self) -> None:
        places = list(self._waiting)
        found: dict[tuple[UUID, int], list[Record]] = {}
        for record in await self._database.fetch(_NEXT, [id for id, _ in places], [version for _, version in places]):
            found.setdefault((record["order_id"], record["after"]), []).append(record)
        for place, records in found.items():
            for waiting in self._waiting.get(place, ()):
                if not waiting.done():
                    waiting.set_result(records)

    async def _next(self, order_id: UUID, version: int) -> list[Record]:
        """At least one of those that follow, in order."""
        place = order_id, version
        waiting: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(place, set()).add(waiting)
        self._watched.set()
        try:
            return await waiting
        finally:
            self._waiting[place].discard(waiting)
            if not self._waiting[place]:
                del self._waiting[place]
            if not self._waiting:
                self._watched.clear()
