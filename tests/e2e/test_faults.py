"""What goes wrong in a shop loses nothing, doubles nothing and sells no piece twice.

`make chaos` has longer storms, and each step and each outage by itself: tests/chaos/test_the_shop_under_faults.py.
"""

from collections.abc import AsyncIterator

import pytest

from tests.support.bare_shop import BareShop, running_bare_shop
from tests.support.shop_faults import SEED, sold_out, storm, under

KILLS = 8
SOLD_OUT = 3


@pytest.fixture(scope="module")
async def bare() -> AsyncIterator[BareShop]:
    async with running_bare_shop() as shop:
        yield shop


@pytest.mark.parametrize("seed", [SEED])
async def test_a_storm_costs_patience_and_nothing_else(bare: BareShop, seed: int) -> None:
    await under(storm(KILLS, seed), bare)


async def test_of_two_hundred_buyers_of_ten_pieces_ten_win(bare: BareShop) -> None:
    for _ in range(SOLD_OUT):
        await sold_out(bare)
