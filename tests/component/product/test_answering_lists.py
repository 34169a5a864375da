"""Lists of products as their callers see them: over gRPC, on PostgreSQL."""

from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from shop.product.v1 import product_pb2 as pb
from shop.product.v1.product_pb2_grpc import ProductServiceStub

from services.chassis.messages import encode_page_token
from tests.component.product.conftest import PAGES
from tests.support.product import but, create, euros, ids
from tests.support.refused import Refused, outcome, refused, violations
from tests.support.serving import Metadata

INVALID = grpc.StatusCode.INVALID_ARGUMENT


LISTS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["axe", "bowl", "cup", "fork", "mug"]),
    ({"order_by": "display_name"}, ["axe", "bowl", "cup", "fork", "mug"]),
    ({"order_by": "  display_name   desc "}, ["mug", "fork", "cup", "bowl", "axe"]),
    ({"order_by": "price"}, ["mug", "axe", "fork", "bowl", "cup"]),
    ({"order_by": "price desc"}, ["cup", "bowl", "fork", "axe", "mug"]),
    ({"order_by": "create_time"}, ["mug", "axe", "fork", "bowl", "cup"]),
    ({"order_by": "create_time desc"}, ["cup", "bowl", "fork", "axe", "mug"]),
    ({"query": " tools \t 0 "}, ["mug"]),
    ({"query": "tool", "order_by": "price"}, ["mug", "axe", "fork"]),
    ({"show_archived": True}, ["axe", "bowl", "cup", "fork", "mug", "pan"]),
    ({"show_archived": True, "order_by": "price desc"}, ["pan", "cup", "bowl", "fork", "axe", "mug"]),
]


@pytest.mark.parametrize(("asked", "wanted"), LISTS)
async def test_pages_lead_through_the_list_that_was_asked_for(
    products: ProductServiceStub, carol: Metadata, asked: dict[str, Any], wanted: Sequence[str]
) -> None:
    for number, id in enumerate(("mug", "axe", "fork", "bowl", "cup", "pan")):
        said = but(
            display_name=id.title(), description=f"{'A tool' if number < 3 else ''} {number}", price=euros(number + 1)
        )
        await products.CreateProduct(create(id, said), metadata=carol)
    await products.ArchiveProduct(pb.ArchiveProductRequest(name="products/pan"), metadata=carol)
    seen, token = list[str](), ""

    while True:
        page = await products.ListProducts(pb.ListProductsRequest(page_token=token, **asked))
        assert len(page.products) <= PAGES.default_page_size
        seen, token = seen + ids(page.products), page.next_page_token
        if not token:
            break

    assert seen == wanted


@pytest.mark.parametrize(("asked", "most"), [(0, 2), (1, 1), (3, 3), (100, 3)])
async def test_pages_have_the_size_that_was_asked_for_within_bounds(
    products: ProductServiceStub, carol: Metadata, asked: int, most: int
) -> None:
    for id in ("axe", "bowl", "cup", "fork"):
        await products.CreateProduct(create(id), metadata=carol)

    assert len((await products.ListProducts(pb.ListProductsRequest(page_size=asked))).products) == most


@pytest.mark.parametrize("name", ["\U0001f375" * 200, "\x01" * 200, "'\"\\" * 66])
async def test_any_name_leads_to_the_next_page(products: ProductServiceStub, carol: Metadata, name: str) -> None:
    for id in ("axe", "x" * 63):
        await products.CreateProduct(create(id, but(display_name=name)), metadata=carol)
    first = await products.ListProducts(pb.ListProductsRequest(page_size=1, order_by="display_name desc"))

    second = await products.ListProducts(
        pb.ListProductsRequest(page_size=1, order_by="display_name desc", page_token=first.next_page_token)
    )

    assert ids([*first.products, *second.products]) == ["x" * 63, "axe"]


async def test_a_token_of_another_list_is_refused(products: ProductServiceStub, carol: Metadata) -> None:
    lists: list[dict[str, Any]] = [{}, *(asked for asked, _ in LISTS[2:]), {"query": "tools"}, {"query": "'' False"}]
    for id in ("axe", "bowl"):
        await products.CreateProduct(create(id, but(description="A tool 0.")), metadata=carol)
    tokens = [
        (await products.ListProducts(pb.ListProductsRequest(page_size=1, **asked))).next_page_token for asked in lists
    ]

    for number, asked in enumerate(lists):
        for other, token in enumerate(tokens):
            request_ = pb.ListProductsRequest(page_token=token, **asked)
            refusal = await outcome(products.ListProducts(request_))
            if token and other != number:
                assert refusal == Refused(INVALID, "PAGE_TOKEN_INVALID")
            else:
                assert refusal.code is grpc.StatusCode.OK


def sealed(order_by: str, *place: object) -> pb.ListProductsRequest:
    """What only somebody who has read this repository sends."""
    token = encode_page_token(f"ListProducts '' {order_by!r} False", place)
    return pb.ListProductsRequest(order_by=order_by, page_token=token)


INVENTED = [
    pb.ListProductsRequest(page_token="nonsense"),
    pb.ListProductsRequest(page_token=encode_page_token("another list", ["Mug", "mug"])),
    sealed("", 1),
    sealed("", "Mug\0", "mug"),
    sealed("", "Mug", "mug\0"),
    sealed("price", "EUR", "mug"),
    sealed("price", "EUR x", "mug"),
    sealed("price", "EUR\0 1", "mug"),
    sealed("price", "EUR -1", "mug"),
    sealed("price", f"EUR {2**63}", "mug"),
    sealed("create_time", "Mug", "mug"),
]


@pytest.mark.parametrize("request_", INVENTED)
async def test_a_token_of_no_page_is_refused(products: ProductServiceStub, request_: pb.ListProductsRequest) -> None:
    assert await outcome(products.ListProducts(request_)) == Refused(INVALID, "PAGE_TOKEN_INVALID")


WRONG_LISTS = [
    (pb.ListProductsRequest(order_by=order_by), "order_by")
    for order_by in ("name", "price asc", "price DESC", "price,display_name", "desc", "price desc desc", "pricedesc")
] + [
    (pb.ListProductsRequest(page_size=-1), "page_size"),
    (pb.ListProductsRequest(query="x" * 101), "query"),
    (pb.ListProductsRequest(query="\0"), "query"),
]


@pytest.mark.parametrize(("request_", "field"), WRONG_LISTS)
async def test_a_wrong_list_says_what_is_wrong_with_it(
    unreached: ProductServiceStub, request_: pb.ListProductsRequest, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await unreached.ListProducts(request_)

    assert refused(error.value) == Refused(INVALID, "INVALID_REQUEST")
    assert [wrong for wrong, _ in violations(error.value)] == [field]
