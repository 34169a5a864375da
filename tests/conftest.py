"""What holds for every test."""

import pytest

_QUICK_FIRST = ("unit", "component", "mesh", "e2e", "chaos")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick tests first: a broken rule shows before a stack is started."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(item.config.rootpath / "tests").parts[0]
        return _QUICK_FIRST.index(folder)

    items.sort(key=rank)
