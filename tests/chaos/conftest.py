"""All tests of this folder share one whole shop."""

from tests.support.shop_fixtures import bearer, collector, edge, http, shop, stocked

__all__ = ["bearer", "collector", "edge", "http", "shop", "stocked"]
