"""The product service over gRPC: parse, one call, render."""

from collections.abc import Callable
from datetime import datetime
from typing import override

from shop.product.v1 import product_pb2 as pb
from shop.product.v1.product_pb2_grpc import ProductServiceServicer

from services.chassis.auth import caller
from services.chassis.messages import (
    PageSizes,
    decode_page_token,
    encode_page_token,
    from_money,
    moment,
    page_size,
    to_money,
    to_timestamp,
    violations,
)
from services.product.domain import Description, Listing, Product, Revision, Sort
from services.product.ports import Catalog
from services.product.use_cases import Browsing, Curating
from services.refusals import InvalidRequest

_PRODUCT = "products/"
_CHANGEABLE = frozenset({"display_name", "description", "price", "image_uri"})


class ProductService(ProductServiceServicer):
    """What ProductService promises in protos/shop/product/v1."""

    def __init__(self, catalog: Catalog, page_sizes: Callable[[], PageSizes]) -> None:
        self._catalog, self._page_sizes = catalog, page_sizes
        self._browsing, self._curating = Browsing(catalog), Curating(catalog)

    @override
    async def GetProduct(self, request: pb.GetProductRequest, _: object) -> pb.GetProductResponse:
        return pb.GetProductResponse(product=_product(await self._catalog.get(_id_of(request.name))))

    @override
    async def BatchGetProducts(self, request: pb.BatchGetProductsRequest, _: object) -> pb.BatchGetProductsResponse:
        products = await self._browsing.several(map(_id_of, request.names))
        return pb.BatchGetProductsResponse(products=map(_product, products))

    @override
    async def ListProducts(self, request: pb.ListProductsRequest, _: object) -> pb.ListProductsResponse:
        query = f"ListProducts {request.query!r} {request.order_by!r} {request.show_archived}"
        listing = _listing(request)
        after = decode_page_token(query, request.page_token, _KEYS[listing.sort], _text)
        page, behind = await self._browsing.page(listing, after, page_size(request.page_size, self._page_sizes()))
        token = encode_page_token(query, behind and (_written(behind[0]), behind[1]))
        return pb.ListProductsResponse(products=map(_product, page), next_page_token=token)

    @override
    async def CreateProduct(self, request: pb.CreateProductRequest, _: object) -> pb.CreateProductResponse:
        said = request.product
        description = Description(said.display_name, said.description, from_money(said.price), said.image_uri)
        product = await self._catalog.add(request.product_id, description, caller().subject, request.request_id)
        return pb.CreateProductResponse(product=_product(product))

    @override
    async def UpdateProduct(self, request: pb.UpdateProductRequest, _: object) -> pb.UpdateProductResponse:
        revision, said = _revision(request), request.product
        product = await self._curating.revise(_id_of(said.name), revision, said.etag)
        return pb.UpdateProductResponse(product=_product(product))

    @override
    async def ArchiveProduct(self, request: pb.ArchiveProductRequest, _: object) -> pb.ArchiveProductResponse:
        product = await self._curating.archive(_id_of(request.name), request.etag)
        return pb.ArchiveProductResponse(product=_product(product))

    @override
    async def UnarchiveProduct(self, request: pb.UnarchiveProductRequest, _: object) -> pb.UnarchiveProductResponse:
        product = await self._curating.unarchive(_id_of(request.name), request.etag)
        return pb.UnarchiveProductResponse(product=_product(product))


def _revision(request: pb.UpdateProductRequest) -> Revision:
    """What the mask names (AIP-134). Raises InvalidRequest for what Product's rules say of those fields, no others."""
    said, named = request.product, set(request.update_mask.paths)
    if "*" in named:
        named = set(_CHANGEABLE)
    elif not named:
        named = {field.name for field, _ in said.ListFields()} & _CHANGEABLE
    wrong = violations(pb.GetProductRequest(name=said.name))  # a product is named in one way
    wrong += [(field, why) for field, why in violations(said) if field.partition(".")[0] in named]
    if wrong:
        raise InvalidRequest(*((f"product.{field}", why) for field, why in wrong))
    return Revision(
        display_name=said.display_name if "display_name" in named else None,
        text=said.description if "description" in named else None,
        price=from_money(said.price) if "price" in named else None,
        image_uri=said.image_uri if "image_uri" in named else None,
    )


def _listing(request: pb.ListProductsRequest) -> Listing:
    match request.order_by.split():
        case [field, *desc]:
            sort, descending = Sort(field), bool(desc)
        case _:
            sort, descending = Sort.DISPLAY_NAME, False
    return Listing(sort, descending, tuple(dict.fromkeys(request.query.split())), request.show_archived)


def _written(key: str | tuple[str, int] | datetime) -> str:
    """As a page token holds it."""
    return f"{key[0]} {key[1]}" if isinstance(key, tuple) else str(key)


def _text(written: str) -> str:
    if "\0" in written:
        raise ValueError("PostgreSQL holds no NUL")
    return written


def _price(written: str) -> tuple[str, int]:
    currency, nanos = _text(written).split(" ")
    if not 0 <= int(nanos) < 2**63:
        raise ValueError("no price that PostgreSQL holds")
    return currency, int(nanos)


_KEYS: dict[Sort, Callable[[str], str | tuple[str, int] | datetime]] = {
    Sort.DISPLAY_NAME: _text,
    Sort.PRICE: _price,
    Sort.CREATE_TIME: moment,
}


def _id_of(name: str) -> str:
    return name.removeprefix(_PRODUCT)


def _product(product: Product) -> pb.Product:
    return pb.Product(
        name=f"{_PRODUCT}{product.id}",
        display_name=product.description.display_name,
        description=product.description.text,
        price=to_money(product.description.price),
        image_uri=product.description.image_uri,
        archived=product.archived,
        create_time=to_timestamp(product.create_time),
        update_time=to_timestamp(product.update_time),
        etag=product.etag,
    )
