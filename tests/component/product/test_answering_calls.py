"""The product service as its callers see it: over gRPC, on PostgreSQL."""

import asyncio

import grpc
import pytest
from google.type.money_pb2 import Money
from shop.product.v1 import product_pb2 as pb
from shop.product.v1.product_pb2_grpc import ProductServiceStub

from tests.support.issuer import Issuer
from tests.support.product import MUG, but, create, euros, ids
from tests.support.refused import Refused, outcome
from tests.support.serving import Metadata, bearing

EXISTS, REJECTED, MISSING, INVALID = (
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
)


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
