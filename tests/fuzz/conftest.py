"""One shop for all searches, with things of their own in it; each search runs once, or for its share of the minutes."""

import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.fuzz.calling import Outside
from tests.fuzz.furnishing import furnish
from tests.fuzz.searching import MINUTES
from tests.support.limits import no_limits
from tests.support.shop import Shop

_REPORT = pytest.StashKey[Outside]()


@pytest.fixture(scope="session")
async def unlimited(shop: Shop) -> AsyncIterator[None]:
    async with no_limits(shop):
        yield


@pytest.fixture(scope="session")
def outside(shop: Shop, unlimited: None, request: pytest.FixtureRequest) -> Iterator[Outside]:
    """With products, orders and reservations that only these tests know of."""
    outside = request.config.stash[_REPORT] = Outside(shop)
    furnish(outside)
    yield outside
    outside.close()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """What earlier searches heard is known to this one. In the long form a test is called until its time is over."""
    outside = pyfuncitem.funcargs.get("outside")
    if not isinstance(outside, Outside):
        return None
    outside.known.join()
    if MINUTES is None or not hasattr(pyfuncitem.obj, "hypothesis"):
        return None
    searches = [item for item in pyfuncitem.session.items if hasattr(getattr(item, "obj", None), "hypothesis")]
    end = time.monotonic() + MINUTES * 60 / len(searches)
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    while time.monotonic() < end:
        pyfuncitem.obj(**arguments)
        outside.known.join()
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was called, and what came out."""
    if MINUTES is None or (outside := config.stash.get(_REPORT, None)) is None:
        return
    terminalreporter.section("calls")
    for way, answers in sorted(outside.tally.items()):
        told = "  ".join(f"{answer} {count}" for answer, count in answers.most_common())
        terminalreporter.line(f"{way:<50} {answers.total():>7}  {told}")
