"""The product service over gRPC: parse, one call, render."""

from collections.abc import Callable
from typing import override

from shop.product.v1 import product_pb2 as pb
from shop.product.v1.product_pb2_grpc import ProductServiceServicer

from services.chassis.auth import caller
from services.chassis.messages import (
    PageSizes,
    decode_page_token,
    encode_page_token,
    from_money,
    page_size,
    to_money,
    to_timestamp,
)
from services.product.domain import Description, Product
from services.product.ports import Catalog
from services.product.use_cases import Browsing

_PRODUCT = "products/"
_LIST = "ListProducts"


class ProductService(ProductServiceServicer):
    """What ProductService promises in protos/shop/product/v1."""

    def __init__(self, catalog: Catalog, browsing: Browsing, page_sizes: Callable[[], PageSizes]) -> None:
        self._catalog, self._browsing, self._page_sizes = catalog, browsing, page_sizes

    @override
    async def GetProduct(self, request: pb.GetProductRequest, _: object) -> pb.GetProductResponse:
        return pb.GetProductResponse(product=_product(await self._catalog.get(_id_of(request.name))))

    @override
    async def BatchGetProducts(self, request: pb.BatchGetProductsRequest, _: object) -> pb.BatchGetProductsResponse:
        products = await self._browsing.several(map(_id_of, request.names))
        return pb.BatchGetProductsResponse(products=map(_product, products))

    @override
    async def ListProducts(self, request: pb.ListProductsRequest, _: object) -> pb.ListProductsResponse:
        after = decode_page_token(_LIST, request.page_token, str, str)
        page, behind = await self._browsing.page(after, page_size(request.page_size, self._page_sizes()))
        return pb.ListProductsResponse(products=map(_product, page), next_page_token=encode_page_token(_LIST, behind))

    @override
    async def CreateProduct(self, request: pb.CreateProductRequest, _: object) -> pb.CreateProductResponse:
        said = request.product
        description = Description(said.display_name, said.description, from_money(said.price), said.image_uri)
        product = await self._catalog.add(request.product_id, description, caller().subject, request.request_id)
        return pb.CreateProductResponse(product=_product(product))


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
        etag=f'"{product.version}"',
    )
