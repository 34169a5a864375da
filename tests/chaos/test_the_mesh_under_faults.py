"""Every fault of docs/faults.md under a steady load, and the table of what each cost.

`make chaos ARGS="-k under_faults"` prints the table.
"""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.faults import HEAD, LONG, OF_THREE, OF_TWO, Fault, Price, Row, under
from tests.support.fleet import Fleet, running_fleet


@pytest.fixture(scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    async with running_fleet() as fleet:
        yield fleet


@pytest.fixture(scope="module")
def rows(pytestconfig: pytest.Config) -> Iterator[list[Row]]:
    """What was found so far; printed at the end."""
    found: list[Row] = []
    yield found
    plugins = pytestconfig.pluginmanager
    with plugins.getplugin("capturemanager").global_and_fixture_disabled():
        plugins.getplugin("terminalreporter").write_line("\n" + "\n".join([HEAD, *map(str, found)]))


@pytest.mark.parametrize(("fault", "price"), [pytest.param(*case, id=case[0].__name__) for case in LONG.items()])
async def test_a_fault_costs_no_more_than_was_promised(
    fleet: Fleet, rows: list[Row], fault: Fault, price: Price
) -> None:
    rows.append(await under(fault, fleet, price))


@pytest.mark.parametrize(("fault", "price"), [pytest.param(*case, id=case[0].__name__) for case in OF_THREE.items()])
async def test_a_fault_of_one_member_of_etcd_costs_nothing(rows: list[Row], fault: Fault, price: Price) -> None:
    async with running_fleet(etcd_members=3) as fleet:
        rows.append(await under(fault, fleet, price))


@pytest.mark.parametrize(("fault", "price"), [pytest.param(*case, id=case[0].__name__) for case in OF_TWO.items()])
async def test_a_fault_of_one_of_two_control_planes_costs_nothing(rows: list[Row], fault: Fault, price: Price) -> None:
    async with running_fleet(control_planes=2) as fleet:
        rows.append(await under(fault, fleet, price))
