"""Changes of products as their callers see them: over gRPC, on PostgreSQL."""

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from shop.product.v1 import product_pb2 as pb
from shop.product.v1.product_pb2_grpc import ProductServiceStub

from tests.support.issuer import Issuer
from tests.support.product import MUG, but, create, euros
from tests.support.refused import Refused, outcome, refused, violations
from tests.support.serving import Metadata, bearing

INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


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
