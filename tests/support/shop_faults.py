"""What can happen to a shop while customers buy, each fault from its beginning until its cause is gone.

The first line of a docstring is its row in docs/faults.md.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Self

from grpc import StatusCode

from tests.support.bare_shop import PENDING, BareShop
from tests.support.purchase import Purchase
from tests.support.refused import Refused, outcome
from tests.support.servers import Server
from tests.support.truth import becomes_true
from tests.support.waiting import eventually

type Fault = Callable[[BareShop], Awaitable[None]]

BUYERS = 8
PAUSE_S = 0.1
"""Between two purchases of a buyer."""
CANCELLED = 5
"""Every so many orders are cancelled at once."""
OUTAGE_S = 10.0


@dataclass(frozen=True, slots=True)
class Row:
    """What a fault cost."""

    fault: str
    orders: int
    unanswered: Counter[str]
    """Attempts, by what was said."""
    slowest_s: float
    twice: int
    """Mails that came more than once, as the shop knows."""

    @classmethod
    def of(cls, fault: str, purchases: Sequence[Purchase], mails: Counter[str]) -> Self:
        """`mails`: how often each came because of it."""
        return cls(
            fault,
            len(purchases),
            sum((purchase.unanswered for purchase in purchases), Counter[str]()),
            max(purchase.took_s for purchase in purchases),
            sum(copies > 1 for copies in mails.values()),
        )

    def __str__(self) -> str:
        codes = ", ".join(f"{number} x {code}" for code, number in sorted(self.unanswered.items()))
        saw = f"{codes or 'nothing'}; an order after {self.slowest_s:.1f} s at the latest"
        return f"| {self.fault} | {self.orders} | {saw} | 0 | {self.twice} |"


HEAD = (
    "| fault | orders | the customers saw | lost or doubled | mails that came twice |\n"
    "|---|---:|---|---:|---:|"
)  # fmt: skip


def first_line(what: Callable[..., object]) -> str:
    """As it stands in the table."""
    assert what.__doc__
    return what.__doc__.partition("\n")[0].rstrip(".")


async def under(fault: Fault, shop: BareShop) -> Row:
    """Lets it happen while customers buy. Raises AssertionError when afterwards not everything is as it must be."""
    mails = shop.sink.accepted
    async with buying(shop) as purchases:
        await _orders_come(shop)
        await fault(shop)
        await _orders_come(shop)
    return Row.of(first_line(fault), purchases, await becomes_true(shop) - mails)


@asynccontextmanager
async def buying(shop: BareShop) -> AsyncIterator[list[Purchase]]:
    """Customers who buy as long as the body runs, and then wait for the answer to their last request."""
    product, purchases, over = await shop.stocked(1_000_000), list[Purchase](), asyncio.Event()

    async def buyer(name: str) -> None:
        for number in count(1):
            purchases.append(purchase := Purchase(shop, product, name))
            await purchase.place()
            if not number % CANCELLED:
                await purchase.cancel()
            if over.is_set():
                return
            await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as buyers:
        for number in range(BUYERS):
            buyers.create_task(buyer(f"buyer-{number}"))
        try:
            yield purchases
        finally:
            over.set()


async def _orders_come(shop: BareShop) -> None:
    enough = len(shop.acknowledged) + BUYERS

    async def look() -> bool:
        return len(shop.acknowledged) >= enough

    await eventually(look, "orders are answered")


# --- outages -------------------------------------------------------------------------------------------------------
async def nats_away(shop: BareShop) -> None:
    """NATS is away for 10 s."""
    await _away(shop.nats)


async def nats_frozen(shop: BareShop) -> None:
    """NATS hangs for 10 s."""
    await _hangs(shop.nats)


async def nats_wiped(shop: BareShop) -> None:
    """NATS loses all its data."""
    await asyncio.to_thread(shop.nats.wipe)


async def mail_away(shop: BareShop) -> None:
    """The mail server is away for 10 s."""
    await _away(shop.sink)


async def mail_frozen(shop: BareShop) -> None:
    """The mail server hangs for 10 s."""
    await _hangs(shop.sink)


async def postgres_away(shop: BareShop) -> None:
    """PostgreSQL is away for 10 s."""
    await _away(shop.postgres)


async def postgres_frozen(shop: BareShop) -> None:
    """PostgreSQL hangs for 10 s."""
    await _hangs(shop.postgres)


async def inventory_away(shop: BareShop) -> None:
    """Both instances of Inventory are away for 10 s."""
    await _away(*shop.of("inventory"))


async def inventory_frozen(shop: BareShop) -> None:
    """Both instances of Inventory hang for 10 s."""
    await _hangs(*shop.of("inventory"))


def pending(fault: Fault) -> Fault:
    """The same in a shop that accepts orders while Inventory is away."""

    async def accepting(shop: BareShop) -> None:
        await shop.configure("order", **PENDING)
        try:
            await fault(shop)
        finally:
            await shop.configure("order")

    accepting.__name__ = f"{fault.__name__}_and_orders_wait"
    accepting.__doc__ = f"{first_line(fault)}; orders are accepted as PENDING_STOCK"
    return accepting


async def notification_away(shop: BareShop) -> None:
    """Both instances of Notification are away for 10 s."""
    await _away(*shop.of("notification"))


async def _away(*parts: Server) -> None:
    await asyncio.gather(*(asyncio.to_thread(part.kill) for part in parts))
    try:
        await asyncio.sleep(OUTAGE_S)
    finally:  # also when a buyer has failed meanwhile: the next test needs a whole shop
        await asyncio.gather(*(asyncio.to_thread(part.start) for part in parts))


async def _hangs(*parts: Server) -> None:
    for part in parts:
        await asyncio.to_thread(part.freeze)
    try:
        await asyncio.sleep(OUTAGE_S)
    finally:
        for part in parts:
            part.thaw()


# --- everything at once --------------------------------------------------------------------------------------------
KINDS = ("order", "inventory", "notification", "nats", "postgres", "smtp", "envoy", "controlplane")
LONGEST_PAUSE_S = 1.5
"""Between two kills."""
MOST_DOWN = 4
"""At once, of eleven: where starting takes long, nobody would be left to be killed at anything."""
# Workers of one run draw the same.
SEED = int(
    os.environ.get("SHOPMESH_SEED") or random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID")).randrange(1 << 32)
)
"""In the name of the test, so that whoever sees it fail can have the same storm again."""


def storm(kills: int, seed: int) -> Fault:
    """Of so many kills, by chance but for the seed."""

    async def fault(shop: BareShop) -> None:
        chance, down, others_are_up = random.Random(seed), set[str](), asyncio.Semaphore(MOST_DOWN)

        async def lose(name: str, part: Server) -> None:
            try:
                await asyncio.to_thread(part.kill)
            finally:
                await asyncio.to_thread(_start, part)
            down.discard(name)
            others_are_up.release()

        async with asyncio.TaskGroup() as losses:
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(0.0, LONGEST_PAUSE_S))
                await others_are_up.acquire()
                up = {kind: [name for name in shop.parts if name.startswith(kind)] for kind in KINDS}
                kind = chance.choice([kind for kind, names in up.items() if set(names) - down])
                down.add(name := chance.choice([name for name in up[kind] if name not in down]))
                losses.create_task(lose(name, shop.parts[name]))

    fault.__name__ = f"storm_of_{kills}"
    fault.__doc__ = (
        f"{kills} times, at moments by chance, something is killed and started again: Order, Inventory, Notification, "
        "NATS, PostgreSQL, the mail server, Envoy, the control plane"
    )
    return fault


# --- more buyers than pieces ---------------------------------------------------------------------------------------
async def sold_out(shop: BareShop, buyers: int = 200, pieces: int = 10) -> None:
    """So many want one each at the same moment. Raises AssertionError when not just as many as there are pieces win."""
    product = await shop.stocked(pieces)

    async def buy(number: int) -> Refused:
        return await outcome(Purchase(shop, product, f"buyer-{number}").place())

    outcomes = await asyncio.gather(*map(buy, range(buyers)))
    facts = {"product": product, "requested": "1", "available": "0"}
    assert outcomes.count(Refused(StatusCode.OK)) == pieces
    assert outcomes.count(Refused(StatusCode.FAILED_PRECONDITION, "OUT_OF_STOCK", facts)) == buyers - pieces
    await becomes_true(shop)


def _start(part: Server) -> None:
    """As a supervisor does: again when it ends while it starts, because something that it needs was just lost."""
    for tries_left in reversed(range(5)):
        try:
            part.start()
        except AssertionError:
            if not tries_left:
                raise
        else:
            return


LASTING: Sequence[Fault] = (
    nats_away, nats_frozen, nats_wiped, mail_away, mail_frozen, postgres_away, postgres_frozen, inventory_away,
    inventory_frozen, pending(inventory_away), pending(inventory_frozen), notification_away,
)  # fmt: skip
