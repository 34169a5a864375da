"""The product service as its callers see it: over gRPC, on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from shop.product.v1 import product_pb2 as pb
from shop.product.v1.config_pb2 import ProductConfig
from shop.product.v1.product_pb2_grpc import ProductServiceStub, add_ProductServiceServicer_to_server

from services.chassis.database import Database
from services.chassis.messages import encode_page_token
from services.product.api import ProductService
from services.product.store import SqlCatalog
from tests.support.issuer import Issuer, running_issuer
from tests.support.product import MemoryCatalog
from tests.support.refused import Refused, outcome, refused, violations
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


def update(product: pb.Product, *paths: str, name: str = "products/mug") -> pb.UpdateProductRequest:
    said = pb.Product(name=name)
    said.MergeFrom(product)
    return pb.UpdateProductRequest(product=said, update_mask=FieldMask(paths=paths) if paths else None)


NEW = pb.Product(display_name="Cup", description="Holds all.", price=euros(9), image_uri="https://example.com/cup.png")
UPDATES = [
    ("what is set", update(pb.Product(display_name="Cup")), but(display_name="Cup")),
    ("all that is set", update(NEW), NEW),
    ("nothing that is set", update(pb.Product()), MUG),
    ("what is named", update(NEW, "price"), but(price=euros(9))),
    ("several", update(NEW, "image_uri", "display_name"), but(display_name="Cup", image_uri=NEW.image_uri)),
    ("named and empty", update(pb.Product(), "description", "image_uri"), but(description="", image_uri="")),
    ("replaced", update(NEW, "*"), NEW),
    ("replaced, empty", update(pb.Product(display_name="Cup", price=euros(9)), "*"),
        pb.Product(display_name="Cup", price=euros(9))),
    # What the mask does not name is not looked at.
    ("wrong beside it", update(pb.Product(display_name="\0", price=euros(9), image_uri="?"), "price"),
        but(price=euros(9))),
    ("output beside it", update(pb.Product(display_name="Cup", archived=True, update_time=Timestamp(seconds=1))),
        but(display_name="Cup")),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "wanted"), [row[1:] for row in UPDATES], ids=[row[0] for row in UPDATES])
async def test_an_update_changes_what_its_mask_names(
    products: ProductServiceStub, carol: Metadata, request_: pb.UpdateProductRequest, wanted: pb.Product
) -> None:
    made = (await products.CreateProduct(create("mug"), metadata=carol)).product

    updated = (await products.UpdateProduct(request_, metadata=carol)).product

    said = ("display_name", "description", "price", "image_uri")
    assert [getattr(updated, field) for field in said] == [getattr(wanted, field) for field in said]
    assert not updated.archived
    assert (updated.etag != made.etag) == (updated.update_time != made.update_time) == (wanted != MUG)
    assert (await products.GetProduct(pb.GetProductRequest(name="products/mug"))).product == updated


WRONG_UPDATES = [
    (update(MUG, "etag"), "update_mask", "etag cannot be changed"),
    (update(MUG, "price", "create_time", "colour"), "update_mask", "create_time cannot be changed, colour cannot"),
    (update(MUG, "*", "archived"), "update_mask", "archived cannot be changed"),
    (update(MUG, "name"), "update_mask", "name cannot be changed"),
    (update(MUG, "price.units"), "update_mask", "price.units cannot be changed"),
    (update(MUG, name="products/Mug"), "product.name", "pattern"),
    (update(MUG, name="mug"), "product.name", "pattern"),
    (pb.UpdateProductRequest(), "product.name", "pattern"),
    (update(pb.Product(), "display_name"), "product.display_name", "at least 1"),
    (update(pb.Product(display_name="x" * 201)), "product.display_name", "at most 200"),
    (update(pb.Product(display_name="Cup"), "*"), "product.price", "required"),
    (update(pb.Product(price=euros(0))), "product.price", "above 0"),
    (update(pb.Product(image_uri="?", description="x" * 10_001), "description"), "product.description", "10000"),
]


@pytest.mark.parametrize(("request_", "field", "why"), WRONG_UPDATES)
async def test_a_wrong_update_says_what_is_wrong_with_it(
    unreached: ProductServiceStub, carol: Metadata, request_: pb.UpdateProductRequest, field: str, why: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await unreached.UpdateProduct(request_, metadata=carol)

    assert refused(error.value) == Refused(INVALID, "INVALID_REQUEST")
    [(wrong, because)] = violations(error.value)
    assert wrong == field
    assert why in because


async def test_a_product_is_archived_found_by_name_and_brought_back(
    products: ProductServiceStub, carol: Metadata
) -> None:
    made = (await products.CreateProduct(create("mug"), metadata=carol)).product
    name = {"name": "products/mug"}

    archived = (await products.ArchiveProduct(pb.ArchiveProductRequest(**name), metadata=carol)).product
    batch = await products.BatchGetProducts(pb.BatchGetProductsRequest(names=["products/mug"]))
    assert archived.archived
    assert archived.etag != made.etag
    assert [*batch.products, (await products.GetProduct(pb.GetProductRequest(**name))).product] == [archived] * 2

    again = pb.ArchiveProductRequest(**name, etag=made.etag)
    assert (await products.ArchiveProduct(again, metadata=carol)).product == archived

    back = pb.UnarchiveProductRequest(**name, etag=archived.etag)
    unarchived = (await products.UnarchiveProduct(back, metadata=carol)).product
    assert not unarchived.archived
    assert (await products.UnarchiveProduct(back, metadata=carol)).product == unarchived


def changes(id: str, etag: str) -> dict[str, Message]:
    """A request of each rpc that changes a product."""
    name = f"products/{id}"
    return {
        "UpdateProduct": update(pb.Product(display_name="Cup", etag=etag), name=name),
        "ArchiveProduct": pb.ArchiveProductRequest(name=name, etag=etag),
        "UnarchiveProduct": pb.UnarchiveProductRequest(name=name, etag=etag),
    }


CHANGES = list(changes("mug", ""))


@pytest.mark.parametrize("rpc", CHANGES)
async def test_a_product_that_has_changed_or_is_not_there_is_not_changed(
    products: ProductServiceStub, carol: Metadata, rpc: str
) -> None:
    made = (await products.CreateProduct(create("mug"), metadata=carol)).product
    if rpc == "UnarchiveProduct":
        made = (await products.ArchiveProduct(pb.ArchiveProductRequest(name=made.name), metadata=carol)).product
    method = getattr(products, rpc)

    for etag in ('"0"', made.etag.strip('"'), f"W/{made.etag}"):
        assert await outcome(method(changes("mug", etag)[rpc], metadata=carol)) == Refused(
            grpc.StatusCode.ABORTED, "ETAG_MISMATCH", {"product": "products/mug"}
        )
    assert await outcome(method(changes("bowl", "")[rpc], metadata=carol)) == Refused(
        MISSING, "PRODUCT_NOT_FOUND", {"product": "products/bowl"}
    )
    assert (await products.GetProduct(pb.GetProductRequest(name="products/mug"))).product == made


@pytest.mark.parametrize("rpc", ["CreateProduct", *CHANGES])
async def test_only_catalog_managers_change_the_catalogue(
    unreached: ProductServiceStub, issuer: Issuer, rpc: str
) -> None:
    method, request_ = getattr(unreached, rpc), {"CreateProduct": create("mug"), **changes("mug", "")}[rpc]
    for caller in (issuer.token("ann", ["customer"]), issuer.token("service-account-order", client="order")):
        refusal = await outcome(method(request_, metadata=bearing(caller)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING")
    assert (await outcome(method(request_))).code == grpc.StatusCode.UNAUTHENTICATED


async def test_one_request_sent_many_times_at_once_makes_one_product(
    products: ProductServiceStub, carol: Metadata
) -> None:
    calls = [products.CreateProduct(create("mug", request_id="r1"), metadata=carol) for _ in range(50)]

    answers = await asyncio.gather(*calls)

    assert answers == [answers[0]] * 50
    assert ids((await products.ListProducts(pb.ListProductsRequest())).products) == ["mug"]


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
