"""What holds for every test."""

from collections.abc import Iterator
from typing import override

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.etcd import EtcdServer, running_etcd
from tests.support.nats import NatsServer, running_nats
from tests.support.postgres import Postgres, running_postgres

# One whole shop for all folders that need it: a fixture that two conftests import is made twice.
pytest_plugins = ("tests.support.shop_fixtures", "tests.support.door_fixtures")

_QUICK_FIRST = ("unit", "component", "mesh", "e2e", "fuzz", "chaos", "compose")
_ON_THE_MESH = ("mesh", "e2e", "fuzz", "chaos")
"""They share a mesh or a whole shop, and look at times."""


class TwoAtOnce(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """All on the mesh for one worker, one after the other; the other takes the rest meanwhile, a file at a time.

    Those on the mesh keep a core busy, the others wait for most of their time.
    """

    @override
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "on the mesh" if file.split("/")[1] in _ON_THE_MESH else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> TwoAtOnce:
    """For `pytest -n 2`, as `make test` has it."""
    return TwoAtOnce(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick tests first: a broken rule shows before a stack is started."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(item.config.rootpath / "tests").parts[0]
        return _QUICK_FIRST.index(folder)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the whole run; a test takes its own database of it."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def etcd() -> Iterator[EtcdServer]:
    """One server for the whole run; tests keep apart by the prefix of their keys."""
    with running_etcd() as server:
        yield server


@pytest.fixture(scope="session")
def nats() -> Iterator[NatsServer]:
    """One server with JetStream for the whole run; tests keep apart by the names of their streams."""
    with running_nats() as server:
        yield server
