"""The product service as its callers see it: over gRPC, on PostgreSQL."""

from collections.abc import AsyncIterator, Iterator, Sequence

import grpc
import pytest
from google.type.money_pb2 import Money
from shop.product.v1 import product_pb2 as pb
from shop.product.v1.config_pb2 import ProductConfig
from shop.product.v1.product_pb2_grpc import ProductServiceStub, add_ProductServiceServicer_to_server

from services.chassis.database import Database
from services.chassis.messages import encode_page_token
from services.product.api import ProductService
from services.product.store import SqlCatalog
from services.product.use_cases import Browsing
from tests.support.issuer import Issuer, running_issuer
from tests.support.product import MemoryCatalog
from tests.support.refused import Refused, outcome
from tests.support.serving import Metadata, bearing, serving

EXISTS, REJECTED, MISSING, INVALID = (
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
)
PAGES = ProductConfig(default_page_size=2, max_page_size=3)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture
async def products(database: Database, issuer: Issuer) -> AsyncIterator[ProductServiceStub]:
    catalog = SqlCatalog(database)
    servicer = ProductService(catalog, Browsing(catalog), lambda: PAGES)
    async with serving(add_ProductServiceServicer_to_server, servicer, issuer) as channel:
        yield ProductServiceStub(channel)


@pytest.fixture(scope="module")
async def unreached(issuer: Issuer) -> AsyncIterator[ProductServiceStub]:
    """A service whose callers are refused before it needs a database."""
    catalog = MemoryCatalog()
    servicer = ProductService(catalog, Browsing(catalog), lambda: PAGES)
    async with serving(add_ProductServiceServicer_to_server, servicer, issuer) as channel:
        yield ProductServiceStub(channel)


@pytest.fixture
def carol(issuer: Issuer) -> Metadata:
    return bearing(issuer.token("carol", ["catalog-manager"]))


def euros(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="EUR", units=units, nanos=nanos)


MUG = pb.Product(
    display_name="Mug", description="Holds tea.", price=euros(12, 500_000_000), image_uri="https://example.com/mug.png"
)


def create(id: str, product: pb.Product = MUG, request_id: str = "") -> pb.CreateProductRequest:
    return pb.CreateProductRequest(product_id=id, product=product, request_id=request_id or id)


def but(**fields: object) -> pb.Product:
    """The mug, but for these."""
    product = pb.Product(**fields)  # type: ignore[arg-type]
    said = pb.Product()
    said.CopyFrom(MUG)
    for name in fields:
        said.ClearField(name)  # type: ignore[arg-type]
    said.MergeFrom(product)
    return said


def ids(products: Sequence[pb.Product]) -> list[str]:
    return [product.name.removeprefix("products/") for product in products]


async def test_anybody_sees_a_product_that_a_manager_has_added(products: ProductServiceStub, carol: Metadata) -> None:
    made = (await products.CreateProduct(create("mug"), metadata=carol)).product
    got = (await products.GetProduct(pb.GetProductRequest(name="products/mug"))).product

    assert got == made
    assert (got.name, got.etag) == ("products/mug", '"1"')
    assert (got.display_name, got.description, got.price, got.image_uri) == (
        MUG.display_name, MUG.description, MUG.price, MUG.image_uri
    )  # fmt: skip
    assert got.create_time == got.update_time
    assert got.create_time.seconds > 0


async def test_several_products_come_in_the_order_of_first_mention_all_or_none(
    products: ProductServiceStub, carol: Metadata
) -> None:
    for id in ("bowl", "mug"):
        await products.CreateProduct(create(id), metadata=carol)

    names = ["products/mug", "products/bowl", "products/mug"]
    batch = await products.BatchGetProducts(pb.BatchGetProductsRequest(names=names))

    assert ids(batch.products) == ["mug", "bowl"]
    names.insert(1, "products/fork")
    assert await outcome(products.BatchGetProducts(pb.BatchGetProductsRequest(names=names))) == Refused(
        MISSING, "PRODUCT_NOT_FOUND", {"product": "products/fork"}
    )


async def test_an_archived_product_is_still_found_by_name(
    products: ProductServiceStub, carol: Metadata, database: Database
) -> None:
    made = (await products.CreateProduct(create("mug"), metadata=carol)).product
    await database.execute("update products set archived = true")

    got = (await products.GetProduct(pb.GetProductRequest(name="products/mug"))).product
    batch = await products.BatchGetProducts(pb.BatchGetProductsRequest(names=["products/mug"]))

    assert (made.archived, got.archived) == (False, True)
    assert list(batch.products) == [got]


async def test_pages_lead_through_the_whole_list(products: ProductServiceStub, carol: Metadata) -> None:
    for id in ("mug", "axe", "fork", "bowl", "cup"):
        await products.CreateProduct(create(id, but(display_name=id.title())), metadata=carol)

    first = await products.ListProducts(pb.ListProductsRequest())
    second = await products.ListProducts(pb.ListProductsRequest(page_size=100, page_token=first.next_page_token))

    assert ids(first.products) == ["axe", "bowl"]
    assert ids(second.products) == ["cup", "fork", "mug"]
    assert second.next_page_token == ""


@pytest.mark.parametrize(
    "token", ["nonsense", encode_page_token("another list", ["Mug", "mug"]), encode_page_token("ListProducts", [1])]
)
async def test_a_token_of_no_page_is_refused(unreached: ProductServiceStub, token: str) -> None:
    refusal = await outcome(unreached.ListProducts(pb.ListProductsRequest(page_token=token)))

    assert refusal == Refused(INVALID, "PAGE_TOKEN_INVALID")


async def test_a_product_is_added_once(products: ProductServiceStub, carol: Metadata, issuer: Issuer) -> None:
    dave = bearing(issuer.token("dave", ["catalog-manager"]))
    first = await products.CreateProduct(create("mug", request_id="r1"), metadata=carol)

    assert await products.CreateProduct(create("mug", request_id="r1"), metadata=carol) == first
    # Its name and what the service decides are not what was said.
    assert (
        await products.CreateProduct(create("mug", but(name="x", etag="y"), request_id="r1"), metadata=carol) == first
    )
    assert await outcome(products.CreateProduct(create("cup", request_id="r1"), metadata=carol)) == Refused(
        REJECTED, "REQUEST_ID_REUSED", {"request_id": "r1"}
    )
    assert await outcome(products.CreateProduct(create("mug", request_id="r1"), metadata=dave)) == Refused(
        EXISTS, "PRODUCT_EXISTS", {"product": "products/mug"}
    )


async def test_a_product_that_is_not_there_is_not_found(products: ProductServiceStub) -> None:
    assert await outcome(products.GetProduct(pb.GetProductRequest(name="products/mug"))) == Refused(
        MISSING, "PRODUCT_NOT_FOUND", {"product": "products/mug"}
    )


async def test_only_catalog_managers_add_products(unreached: ProductServiceStub, issuer: Issuer) -> None:
    for caller in (issuer.token("ann", ["customer"]), issuer.token("service-account-order", client="order")):
        refusal = await outcome(unreached.CreateProduct(create("mug"), metadata=bearing(caller)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING")
    assert (await outcome(unreached.CreateProduct(create("mug")))).code == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "request_",
    [
        create("m"),
        create("Mug"),
        create("mug", request_id="ü"),
        create("mug", but(display_name="")),
        create("mug", but(display_name="x" * 201)),
        create("mug", but(display_name="Mug\0")),
        create("mug", but(description="x" * 10_001)),
        create("mug", but(description="\0")),
        create("mug", but(image_uri="mug.png")),
        create("mug", but(price=Money())),
        create("mug", but(price=euros(0))),
        create("mug", but(price=euros(-1))),
        create("mug", but(price=euros(1_000_001))),
        create("mug", but(price=euros(1, 1))),
        create("mug", but(price=Money(currency_code="eur", units=1))),
    ],
)
async def test_what_cannot_be_a_product_is_refused(
    unreached: ProductServiceStub, carol: Metadata, request_: pb.CreateProductRequest
) -> None:
    refusal = await outcome(unreached.CreateProduct(request_, metadata=carol))

    assert refusal == Refused(INVALID, "INVALID_REQUEST")
