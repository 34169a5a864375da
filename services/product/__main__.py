"""`python -m services.product`: one process of the product service."""

from shop.product.v1.config_pb2 import ProductConfig
from shop.product.v1.product_pb2_grpc import add_ProductServiceServicer_to_server

from services.chassis.server import Process, run
from services.product.api import ProductService
from services.product.store import SqlCatalog


async def wire(process: Process[ProductConfig]) -> None:
    """A catalogue in a database; how large its pages are may change at any moment."""
    catalog = SqlCatalog(await process.database("services.product"))
    servicer = ProductService(catalog, lambda: process.config.current)
    process.add(add_ProductServiceServicer_to_server, servicer)


if __name__ == "__main__":
    run("product", ProductConfig, wire)
