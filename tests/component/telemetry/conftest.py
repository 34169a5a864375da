"""A shop whose databases the pages read."""

from tests.component.cli.conftest import shop, shop_of_all

__all__ = ["shop", "shop_of_all"]
