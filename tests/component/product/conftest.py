"""The product service with a database for itself, and who calls it."""

from collections.abc import AsyncIterator

import pytest
from shop.product.v1.config_pb2 import ProductConfig
from shop.product.v1.product_pb2_grpc import ProductServiceStub, add_ProductServiceServicer_to_server

from services.chassis.database import Database
from services.product.api import ProductService
from services.product.store import SqlCatalog
from tests.support.issuer import Issuer
from tests.support.postgres import Postgres
from tests.support.product import MemoryCatalog
from tests.support.serving import Metadata, bearing, serving

PAGES = ProductConfig(default_page_size=2, max_page_size=3)


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[Database]:
    async with postgres.emptied("services.product") as database:
        yield database


@pytest.fixture
async def products(database: Database, issuer: Issuer) -> AsyncIterator[ProductServiceStub]:
    servicer = ProductService(SqlCatalog(database), lambda: PAGES)
    async with serving(add_ProductServiceServicer_to_server, servicer, issuer) as channel:
        yield ProductServiceStub(channel)


@pytest.fixture(scope="module")
async def unreached(issuer: Issuer) -> AsyncIterator[ProductServiceStub]:
    """A service whose callers are refused before it needs a database."""
    servicer = ProductService(MemoryCatalog(), lambda: PAGES)
    async with serving(add_ProductServiceServicer_to_server, servicer, issuer) as channel:
        yield ProductServiceStub(channel)


@pytest.fixture
def carol(issuer: Issuer) -> Metadata:
    return bearing(issuer.token("carol", ["catalog-manager"]))
