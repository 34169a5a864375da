"""What goes wrong in a mesh and is over within seconds costs no more than docs/faults.md says.

`make chaos` has these faults as well, and those that last longer.
"""

from collections.abc import AsyncIterator

import pytest

from tests.support.faults import SHORT, Fault, Price, under
from tests.support.fleet import Fleet, running_fleet


@pytest.fixture(scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    async with running_fleet() as fleet:
        yield fleet


@pytest.mark.parametrize(("fault", "price"), [pytest.param(*case, id=case[0].__name__) for case in SHORT.items()])
async def test_a_fault_costs_no_more_than_was_promised(fleet: Fleet, fault: Fault, price: Price) -> None:
    await under(fault, fleet, price)
