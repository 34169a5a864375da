"""Every fault of the shop in docs/faults.md, and the table of what each cost.

`make chaos ARGS="-k shop_under_faults"` prints the table.
"""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tests.support.bare_shop import BareShop, running_bare_shop
from tests.support.shop_faults import HEAD, LASTING, SEED, Fault, Row, pending, sold_out, storm, under
from tests.support.steps import STEPS, Step, frozen_at, killed_at

KILLS = 50
SOLD_OUT = 20


@pytest.fixture(scope="module")
async def wired() -> AsyncIterator[BareShop]:
    async with running_bare_shop(wired=True) as shop:
        yield shop


@pytest.fixture(scope="module")
async def bare() -> AsyncIterator[BareShop]:
    async with running_bare_shop() as shop:
        yield shop


@pytest.fixture(scope="module")
def rows(pytestconfig: pytest.Config) -> Iterator[list[Row]]:
    """What was found so far; printed at the end."""
    found: list[Row] = []
    yield found
    plugins = pytestconfig.pluginmanager
    with plugins.getplugin("capturemanager").global_and_fixture_disabled():
        plugins.getplugin("terminalreporter").write_line("\n" + "\n".join([HEAD, *map(str, found)]))


@pytest.mark.parametrize("step", [pytest.param(step, id=step.__name__) for step in STEPS])
async def test_a_process_killed_at_a_step_loses_and_doubles_nothing(
    wired: BareShop, rows: list[Row], step: Step
) -> None:
    rows.append(await killed_at(step, wired))


@pytest.mark.parametrize("step", [pytest.param(step, id=step.__name__) for step in STEPS])
async def test_a_process_frozen_at_a_step_and_woken_when_others_did_its_work_loses_and_doubles_nothing(
    wired: BareShop, rows: list[Row], step: Step
) -> None:
    rows.append(await frozen_at(step, wired))


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.__name__) for fault in LASTING])
async def test_an_outage_costs_patience_and_nothing_else(bare: BareShop, rows: list[Row], fault: Fault) -> None:
    rows.append(await under(fault, bare))


@pytest.mark.parametrize("seed", [SEED])
@pytest.mark.parametrize("what", [storm, lambda kills, seed: pending(storm(kills, seed))], ids=["refused", "pending"])
async def test_a_storm_costs_patience_and_nothing_else(
    bare: BareShop, rows: list[Row], what: Callable[[int, int], Fault], seed: int
) -> None:
    rows.append(await under(what(KILLS, seed), bare))


@pytest.mark.parametrize("time", range(SOLD_OUT))
async def test_of_two_hundred_buyers_of_ten_pieces_ten_win(bare: BareShop, time: int) -> None:
    await sold_out(bare)
