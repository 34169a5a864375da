"""What holds for every test."""

from collections.abc import Iterator

import pytest

from tests.support.etcd import EtcdServer, running_etcd
from tests.support.nats import NatsServer, running_nats
from tests.support.postgres import Postgres, running_postgres

# One whole shop for all folders that need it: a fixture that two conftests import is made twice.
pytest_plugins = ("tests.support.shop_fixtures", "tests.support.door_fixtures")

_QUICK_FIRST = ("unit", "component", "mesh", "e2e", "fuzz", "chaos")


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
