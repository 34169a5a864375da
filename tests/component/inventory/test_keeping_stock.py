"""The reservation table, run against every implementation of the ports."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from services.inventory.domain import (
    Lines,
    OutOfStock,
    Reservation,
    ReservationDiffers,
    ReservationNotFound,
    ReservationReleased,
    State,
    StockBelowReserved,
    StockNotFound,
)
from services.inventory.store import FIRST_PAGE, NEXT_PAGE
from services.refusals import Refusal, RequestIdReused
from tests.component.inventory.conftest import Keeper
from tests.support.plans import plan
from tests.support.postgres import Postgres

TTL = timedelta(minutes=10)
OVER = timedelta(0)
CART = Lines.of([("mug", 3), ("bowl", 1)])

type Action = Callable[[Keeper, UUID], Awaitable[Reservation | Refusal | bool]]


async def reserve(keeper: Keeper, id: UUID) -> Reservation:
    return await keeper.warehouse.reserve(id, CART, TTL)


async def confirm(keeper: Keeper, id: UUID) -> Reservation | Refusal:
    [result] = await keeper.warehouse.confirm([id])
    return result


async def release(keeper: Keeper, id: UUID) -> Reservation:
    return await keeper.warehouse.release(id)


async def reap(keeper: Keeper, _id: UUID) -> bool:
    return await keeper.warehouse.lapse_one()


async def known_as(state: State, keeper: Keeper) -> UUID:
    """A reservation in that state, its hold overdue."""
    id = uuid4()
    if state is not State.NONE:
        await keeper.warehouse.reserve(id, CART, OVER)
    if state is State.EXPIRED:
        assert await keeper.warehouse.lapse_one()
    if state is State.CONFIRMED:
        await keeper.warehouse.confirm([id])
    if state is State.RELEASED:
        await keeper.warehouse.release(id)
    return id


NONE, HELD, EXPIRED, CONFIRMED, RELEASED = State.NONE, State.HELD, State.EXPIRED, State.CONFIRMED, State.RELEASED


@pytest.mark.parametrize(
    ("now", "action", "free", "then", "counted"),
    [
        # free: mugs beside those that the reservation claims. counted: (on_hand, reserved) of mugs in the end.
        (NONE, reserve, 3, HELD, (3, 3)),
        (NONE, reserve, 2, OutOfStock, (2, 0)),
        (NONE, confirm, 3, ReservationNotFound, (3, 0)),
        (NONE, release, 3, RELEASED, (3, 0)),
        (NONE, reap, 3, NONE, (3, 0)),
        (HELD, reserve, 0, HELD, (3, 3)),
        (HELD, confirm, 0, CONFIRMED, (0, 0)),
        (HELD, release, 0, RELEASED, (3, 0)),
        (HELD, reap, 0, EXPIRED, (3, 0)),
        (EXPIRED, reserve, 0, HELD, (3, 3)),
        (EXPIRED, reserve, -1, OutOfStock, (2, 0)),
        (EXPIRED, confirm, 0, CONFIRMED, (0, 0)),
        (EXPIRED, confirm, -1, OutOfStock, (2, 0)),
        (EXPIRED, release, 0, RELEASED, (3, 0)),
        (EXPIRED, reap, 0, EXPIRED, (3, 0)),
        (CONFIRMED, reserve, 0, CONFIRMED, (0, 0)),
        (CONFIRMED, confirm, 0, CONFIRMED, (0, 0)),
        (CONFIRMED, release, 0, RELEASED, (3, 0)),
        (CONFIRMED, reap, 0, CONFIRMED, (0, 0)),
        (RELEASED, reserve, 0, ReservationReleased, (3, 0)),
        (RELEASED, confirm, 0, ReservationReleased, (3, 0)),
        (RELEASED, release, 0, RELEASED, (3, 0)),
        (RELEASED, reap, 0, RELEASED, (3, 0)),
    ],
)
async def test_every_cell_of_the_reservation_table(
    keeper: Keeper, now: State, action: Action, free: int, then: State | type[Refusal], counted: tuple[int, int]
) -> None:
    await keeper.stocked(mug=3, bowl=1)
    id = await known_as(now, keeper)
    extra = free - 3 if now is NONE else free
    if extra:
        await keeper.stocks.adjust("mug", extra, "carol", "r1")

    became: object
    try:
        became = await action(keeper, id)
    except Refusal as refusal:
        became = refusal

    if isinstance(became, Reservation):
        assert (became.id, became.state) == (id, then)
        assert became.lines == (Lines() if (now, then) == (NONE, RELEASED) else CART)
    elif isinstance(became, Refusal):
        assert isinstance(became, then if isinstance(then, type) else ())
    else:
        assert became is (then is not now)
    assert await keeper.counted("mug") == counted
    await keeper.require_consistent()


async def test_a_refused_reservation_leaves_nothing_behind(keeper: Keeper) -> None:
    await keeper.stocked(mug=2, bowl=5)
    id = uuid4()

    with pytest.raises(OutOfStock) as refusal:
        await keeper.warehouse.reserve(id, CART, TTL)

    assert refusal.value.facts == {"product": "products/mug", "requested": "3", "available": "2"}
    assert await keeper.counted("bowl") == (5, 0)
    # The id is as new: other lines may take it.
    assert (await keeper.warehouse.reserve(id, Lines.of([("mug", 2)]), TTL)).state is HELD


async def test_a_product_without_stock_is_out_of_stock(keeper: Keeper) -> None:
    await keeper.stocked(mug=3)

    with pytest.raises(OutOfStock) as refusal:
        await keeper.warehouse.reserve(uuid4(), CART, TTL)

    assert refusal.value.facts == {"product": "products/bowl", "requested": "1", "available": "0"}
    assert await keeper.counted("mug") == (3, 0)


@pytest.mark.parametrize("state", [HELD, EXPIRED, CONFIRMED, RELEASED])
async def test_other_lines_under_a_known_id_are_refused(keeper: Keeper, state: State) -> None:
    await keeper.stocked(mug=3, bowl=1)
    id = await known_as(state, keeper)

    with pytest.raises(ReservationDiffers):
        await keeper.warehouse.reserve(id, Lines.of([("mug", 1)]), TTL)


async def test_a_tombstone_keeps_a_late_hold_out(keeper: Keeper) -> None:
    await keeper.stocked(mug=3, bowl=1)
    id = uuid4()
    assert (await keeper.warehouse.release(id)).lines == Lines()

    with pytest.raises(ReservationReleased):
        await keeper.warehouse.reserve(id, CART, TTL)

    assert await keeper.counted("mug") == (3, 0)


async def test_reserving_again_renews_the_hold(keeper: Keeper) -> None:
    await keeper.stocked(mug=3, bowl=1)
    id = uuid4()
    first = await keeper.warehouse.reserve(id, CART, OVER)

    again = await keeper.warehouse.reserve(id, CART, TTL)

    assert first.expire_time
    assert again.expire_time
    assert again.expire_time - first.expire_time >= TTL
    assert not await keeper.warehouse.lapse_one()


async def test_a_batch_of_holds_on_the_same_product_is_confirmed_as_a_whole(keeper: Keeper) -> None:
    await keeper.stocked(mug=10, bowl=10)
    ids = [uuid4() for _ in range(3)]
    for id in ids:
        await keeper.warehouse.reserve(id, CART, TTL)
    gone = uuid4()

    results = await keeper.warehouse.confirm([ids[2], gone, *ids[:2]])

    assert [result.id for result in results if isinstance(result, Reservation)] == [ids[2], *ids[:2]]
    assert isinstance(results[1], ReservationNotFound)
    assert await keeper.counted("mug") == (1, 0)
    assert await keeper.counted("bowl") == (7, 0)
    await keeper.require_consistent()


async def test_every_change_of_the_counters_stands_in_the_ledger(keeper: Keeper) -> None:
    await keeper.stocked(mug=3)
    id, mugs = uuid4(), Lines.of([("mug", 2)])
    await keeper.warehouse.reserve(id, mugs, OVER)
    await keeper.warehouse.reserve(id, mugs, OVER)
    await keeper.warehouse.lapse_one()
    await keeper.warehouse.confirm([id])
    await keeper.warehouse.release(id)
    await keeper.warehouse.release(id)

    assert await keeper.ledger() == [
        (None, "mug", "ADJUSTED", 3, 0),
        (id, "mug", "HELD", 0, 2),
        (id, "mug", "EXPIRED", 0, -2),
        (id, "mug", "CONFIRMED", -2, 0),
        (id, "mug", "RELEASED", 2, 0),
    ]


async def test_stock_has_a_new_version_after_every_change(keeper: Keeper) -> None:
    await keeper.stocked(mug=3, bowl=1)
    id, versions = uuid4(), [(await keeper.stocks.get("mug")).version]
    for action in (reserve, confirm, release):
        await action(keeper, id)
        versions.append((await keeper.stocks.get("mug")).version)

    assert versions == [1, 2, 3, 4]


async def test_stock_that_was_never_there_is_not_found(keeper: Keeper) -> None:
    with pytest.raises(StockNotFound):
        await keeper.stocks.get("mug")


async def test_the_same_request_id_adjusts_once(keeper: Keeper) -> None:
    first = await keeper.stocks.adjust("mug", 5, "carol", "r1")

    assert await keeper.stocks.adjust("mug", 5, "carol", "r1") == first
    assert await keeper.stocks.adjust("mug", 5, "dave", "r1") != first
    assert await keeper.counted("mug") == (10, 0)


@pytest.mark.parametrize(("product", "delta"), [("mug", 6), ("bowl", 5)])
async def test_another_adjustment_under_the_same_request_id_is_refused(
    keeper: Keeper, product: str, delta: int
) -> None:
    await keeper.stocks.adjust("mug", 5, "carol", "r1")

    with pytest.raises(RequestIdReused):
        await keeper.stocks.adjust(product, delta, "carol", "r1")

    assert await keeper.counted("mug") == (5, 0)


async def test_promised_pieces_cannot_be_taken_out_and_the_request_id_is_not_used_up(keeper: Keeper) -> None:
    await keeper.stocked(mug=5, bowl=1)
    id = uuid4()
    await reserve(keeper, id)

    with pytest.raises(StockBelowReserved) as refusal:
        await keeper.stocks.adjust("mug", -3, "carol", "r1")
    assert refusal.value.facts == {"product": "products/mug", "on_hand": "5", "reserved": "3"}
    await keeper.warehouse.release(id)
    await keeper.stocks.adjust("mug", -3, "carol", "r1")

    assert await keeper.counted("mug") == (2, 0)
    await keeper.require_consistent()


async def test_a_refused_first_adjustment_makes_no_stock(keeper: Keeper) -> None:
    with pytest.raises(StockBelowReserved):
        await keeper.stocks.adjust("mug", -1, "carol", "r1")

    with pytest.raises(StockNotFound):
        await keeper.stocks.get("mug")


async def test_the_stock_of_several_products_is_that_of_those_that_have_any(keeper: Keeper) -> None:
    await keeper.stocked(mug=3, bowl=1)

    found = await keeper.stocks.find(["mug", "fork", "bowl"])

    assert {product: stock.on_hand for product, stock in found.items()} == {"mug": 3, "bowl": 1}


async def test_a_reservation_is_seen_as_it_was_last_left(keeper: Keeper) -> None:
    await keeper.stocked(mug=3, bowl=1)
    id = uuid4()
    with pytest.raises(ReservationNotFound):
        await keeper.reservations.get(id)

    for action in (reserve, confirm, release):
        left = await action(keeper, id)
        assert await keeper.reservations.get(id) == left


async def test_pages_follow_product_ids_and_stay_stable_under_inserts(keeper: Keeper) -> None:
    # Byte by byte a hyphen comes before digits, and these before letters.
    await keeper.stocked(**dict.fromkeys(["mug2", "mug", "muga", "mug-2", "bowl"], 1))
    seen, after = list[str](), None

    while True:
        page, after = await keeper.stocktaking.page(after, 2)
        seen += [stock.product for stock in page]
        # Before the place we stand at: pages to come do not shift.
        await keeper.stocked(**{f"axe-{len(seen)}": 1})
        if after is None:
            break

    assert seen == ["bowl", "mug", "mug-2", "mug2", "muga"]


async def test_a_page_costs_the_same_wherever_it_lies(postgres: Postgres) -> None:
    async with postgres.database("services.inventory") as database:  # of its own: statistics outlive what is emptied
        await database.execute(
            "insert into stock select 'product-' || lpad(n::text, 5, '0'), 1, 0, 1 from generate_series(1, 20000) as n"
        )
        await database.execute("analyze stock")

        first = await plan(database, FIRST_PAGE, 101)
        last = await plan(database, NEXT_PAGE, 101, "product-19899")

    assert [step.kind for step in first] == [step.kind for step in last] == ["Limit", "Index Scan"]
    assert last[0].blocks <= first[0].blocks + 3
