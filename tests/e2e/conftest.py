"""What is asked of somebody's installation."""

import pytest

from tests.support.installation import Installation

_ABOUT_THE_SHOP = {"installation", "shop"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that are about no shop, or start one for themselves, tell nothing of an installation."""
    if not Installation.given():
        return
    here = [item for item in items if item.path.is_relative_to(config.rootpath / "tests" / "e2e")]
    others = [item for item in here if not _ABOUT_THE_SHOP & set(getattr(item, "fixturenames", ()))]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]
