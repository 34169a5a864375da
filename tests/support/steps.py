"""The steps of an order's life at which a process can be lost, each reached by holding a wire or a lock.

The first line of a docstring is its row in docs/faults.md. Each yields the process that is at the step, and in the end
lets go of what is not that process's own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg

from services.order.contract import EVENT_TYPES
from tests.support.bare_shop import PENDING, BareShop, Instance, Wires
from tests.support.proxy import Proxy
from tests.support.purchase import Purchase
from tests.support.shop_faults import Row, first_line
from tests.support.truth import becomes_true, ce_ids
from tests.support.waiting import DEADLINE_S, eventually

type Step = Callable[[BareShop, Purchase], AbstractAsyncContextManager[Instance]]

_THE_ORDER = b'"display_name"'
"""In the statement that keeps an order, and in no other."""
# Not to be asked in a transaction, which sees the same activity all the time.
_WAITING = """
select application_name from pg_stat_activity
where wait_event_type = 'Lock' and query like '%insert into orders%' order by query_start"""
_AN_EVENT = b"HPUB " + EVENT_TYPES[0].rpartition(".")[0].encode()
_AN_ACK = b"$JS.ACK."
_END_OF_A_MAIL = b"\r\n.\r\n"


# --- PlaceOrder ----------------------------------------------------------------------------------------------------
@asynccontextmanager
async def before_reserve(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Order, before ReserveStock."""
    _hold_at(shop.of("order"), _mesh, _reservation_of(purchase))
    purchase.begin_to_place()
    yield await _held_first(shop.of("order"), _mesh)


@asynccontextmanager
async def hold_taken(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Order, when the hold is taken and not answered."""
    _hold_after(shop.of("order"), _mesh, _reservation_of(purchase))
    purchase.begin_to_place()
    victim = await _held_first(shop.of("order"), _mesh)
    await _reservation_is(shop, purchase, "HELD")
    yield victim


@asynccontextmanager
async def hold_taken_by_inventory(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Inventory, when the hold is taken and not answered."""
    _hold_after(shop.of("inventory"), _database, purchase.product.removeprefix("products/").encode())
    purchase.begin_to_place()
    victim = await _held_first(shop.of("inventory"), _database)
    await _reservation_is(shop, purchase, "HELD")
    yield victim


@asynccontextmanager
async def before_commit(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Order, before its commit."""
    _hold_at(shop.of("order"), _database, _THE_ORDER)
    purchase.begin_to_place()
    yield await _held_first(shop.of("order"), _database)


@asynccontextmanager
async def commit_in_doubt(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Order, when its commit is under way."""
    patience = {"idle_in_transaction_session_timeout": "0"}
    connection = await asyncpg.connect(shop.postgres.url("order"), server_settings=patience)
    try:
        await connection.execute("begin; lock table order_events in share row exclusive mode")
        purchase.begin_to_place()

        async def waiting() -> list[str]:
            return [row["application_name"] for row in await shop.rows("order", _WAITING)]

        async def another_waits() -> bool:
            return any(one != name for one in await waiting())

        name, *_ = await eventually(waiting, "the commit waits for the lock")
        [victim] = [one for one in shop.of("order") if one.name == name]
        yield victim
        await eventually(another_waits, "the next try waits for the first")
    finally:
        await connection.close()


@asynccontextmanager
async def committed(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Order, when the order is committed and not answered."""
    _hold_after(shop.of("order"), _database, _THE_ORDER)
    purchase.begin_to_place()
    victim = await _held_first(shop.of("order"), _database)

    async def kept() -> bool:
        return bool(await shop.rows("order", "select from orders where id = $1", purchase.id))

    await eventually(kept, "the order is kept")
    yield victim


# --- after it was answered -----------------------------------------------------------------------------------------
@asynccontextmanager
async def event_claimed(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Order, when its event is claimed."""
    _hold_at(shop.of("order"), _nats, _AN_EVENT)
    purchase.begin_to_place()
    yield await _held_first(shop.of("order"), _nats)


@asynccontextmanager
async def event_acked(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Order, when its event is in the stream and not marked as sent."""
    before = await ce_ids(shop)
    async with event_claimed(shop, purchase) as victim:
        _database(victim).passes.clear()
        _nats(victim).let_go()

        async def there() -> bool:
            return bool(await ce_ids(shop) - before)

        await eventually(there, "the event is in the stream")
        yield victim


@asynccontextmanager
async def event_unacked(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Notification, when an event is kept and not acknowledged."""
    _hold_at(shop.of("notification"), _nats, _AN_ACK)
    purchase.begin_to_place()
    yield await _held_first(shop.of("notification"), _nats)


@asynccontextmanager
async def mail_accepted(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Notification, when a mail is accepted and not marked as sent."""
    before = shop.sink.accepted
    _hold_at(shop.of("notification"), _smtp, _END_OF_A_MAIL)
    purchase.begin_to_place()
    victim = await _held_first(shop.of("notification"), _smtp)
    _database(victim).passes.clear()
    _smtp(victim).let_go()

    async def there() -> bool:
        return bool(shop.sink.accepted - before)

    await eventually(there, "the mail is accepted")
    yield victim


@asynccontextmanager
async def confirmed(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Order, when its hold is confirmed and the order not marked as settled."""
    _hold_after(shop.of("order"), _mesh, b"reservations/" + _reservation_of(purchase))
    purchase.begin_to_place()
    victim = await _held_first(shop.of("order"), _mesh)
    await _reservation_is(shop, purchase, "CONFIRMED")
    yield victim


@asynccontextmanager
async def confirmed_by_inventory(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Inventory, when a hold is confirmed and that not answered."""
    _hold_at(shop.of("order"), _mesh, b"reservations/" + _reservation_of(purchase))
    purchase.begin_to_place()
    settler = await _held_first(shop.of("order"), _mesh)
    _hold_after(shop.of("inventory"), _database, purchase.id.bytes)
    _mesh(settler).let_go()
    victim = await _held_first(shop.of("inventory"), _database)
    await _reservation_is(shop, purchase, "CONFIRMED")
    yield victim


@asynccontextmanager
async def released(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Order, when the stock of a cancelled order is given back and the order not marked as settled."""
    await purchase.place()
    await _reservation_is(shop, purchase, "CONFIRMED")
    _hold_after(shop.of("order"), _mesh, b"reservations/" + _reservation_of(purchase))
    purchase.begin_to_cancel()
    victim = await _held_first(shop.of("order"), _mesh)
    await _reservation_is(shop, purchase, "RELEASED")
    yield victim


@asynccontextmanager
async def pending_held(shop: BareShop, purchase: Purchase) -> AsyncIterator[Instance]:
    """Order, when it holds stock for an order that is PENDING_STOCK and not marked as placed."""
    await shop.configure("order", **PENDING)
    _hold_at(shop.of("order"), _mesh, _reservation_of(purchase))
    await purchase.place()
    await shop.configure("order")
    for instance in shop.of("order"):
        _mesh(instance).cut()
    _hold_after(shop.of("order"), _mesh, _reservation_of(purchase))
    victim = await _held_first(shop.of("order"), _mesh)
    await _reservation_is(shop, purchase, "HELD")
    yield victim


STEPS: Sequence[Step] = (
    before_reserve, hold_taken, hold_taken_by_inventory, before_commit, commit_in_doubt, committed, event_claimed,
    event_acked, event_unacked, mail_accepted, confirmed, confirmed_by_inventory, released, pending_held,
)  # fmt: skip


async def killed_at(step: Step, shop: BareShop) -> Row:
    """The process is killed, and started again when the customer has an answer. Raises AssertionError as `under`."""
    purchase, mails = Purchase(shop, await shop.stocked(1)), shop.sink.accepted
    async with step(shop, purchase) as victim:
        await asyncio.to_thread(victim.kill)
        for wire in _wires(victim).all:
            wire.cut()
    await purchase.answered()
    await asyncio.to_thread(victim.start)
    row = Row.of(f"{first_line(step)}: killed", [purchase], await becomes_true(shop) - mails)
    await shop.healthy()
    return row


async def frozen_at(step: Step, shop: BareShop) -> Row:
    """The process hangs; when another one has done its work it goes on, and what was held arrives."""
    purchase, mails = Purchase(shop, await shop.stocked(1)), shop.sink.accepted
    async with step(shop, purchase) as victim:
        await asyncio.to_thread(victim.freeze)
    await purchase.answered()
    await becomes_true(shop)
    for wire in _wires(victim).all:
        wire.let_go()
    victim.thaw()
    await shop.healthy()
    # Done after all that the woken one had in hand.
    await Purchase(shop, await shop.stocked(1)).place()
    return Row.of(f"{first_line(step)}: hangs", [purchase], await becomes_true(shop) - mails)


# --- wires ---------------------------------------------------------------------------------------------------------
def _wires(instance: Instance) -> Wires:
    assert instance.wires
    return instance.wires


def _database(instance: Instance) -> Proxy:
    return _wires(instance).database


def _nats(instance: Instance) -> Proxy:
    return _wires(instance).nats


def _mesh(instance: Instance) -> Proxy:
    return _wires(instance).mesh


def _smtp(instance: Instance) -> Proxy:
    return _wires(instance).smtp


def _hold_at(instances: Sequence[Instance], wire: Callable[[Instance], Proxy], word: bytes) -> None:
    for instance in instances:
        wire(instance).hold_at(word)


def _hold_after(instances: Sequence[Instance], wire: Callable[[Instance], Proxy], word: bytes) -> None:
    for instance in instances:
        wire(instance).hold_after(word)


async def _held_first(instances: Sequence[Instance], wire: Callable[[Instance], Proxy]) -> Instance:
    """Whose wire is held first; those of the others pass all from then on."""
    waiting = {asyncio.create_task(wire(instance).held.wait()): instance for instance in instances}
    try:
        done, _ = await asyncio.wait(waiting, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        assert done, "nobody comes to the step"
    finally:
        for task in waiting:
            task.cancel()
    first = waiting[done.pop()]
    for instance in instances:
        if instance is not first:
            wire(instance).let_go()
    return first


# --- what is there -------------------------------------------------------------------------------------------------
def _reservation_of(purchase: Purchase) -> bytes:
    return str(purchase.id).encode()


async def _reservation_is(shop: BareShop, purchase: Purchase, state: str) -> None:
    query = "select state from audit_reservations where reservation_id = $1"

    async def look() -> bool:
        return [row["state"] for row in await shop.rows("inventory", query, purchase.id)] == [state]

    await eventually(look, f"the reservation is {state}")
