"""The product service as a process."""

import grpc
from shop.product.v1 import product_pb2 as pb
from shop.product.v1.product_pb2_grpc import ProductServiceStub

from services.chassis.etcd import Etcd
from tests.support.etcd import EtcdServer
from tests.support.issuer import running_issuer
from tests.support.postgres import Postgres
from tests.support.product import create
from tests.support.serving import bearing, running_service
from tests.support.waiting import eventually

CONFIG = "/shop/config/product"


async def test_a_changed_page_size_takes_effect_while_it_runs(postgres: Postgres, etcd: EtcdServer) -> None:
    client, database_url = Etcd(etcd.endpoint), await postgres.make("services.product")
    with (
        running_issuer() as issuer,
        running_service("product", database_url=database_url, etcd=etcd, issuer=issuer) as process,
    ):
        async with grpc.aio.insecure_channel(process.address) as channel:
            products = ProductServiceStub(channel)
            carol = bearing(issuer.token("carol", ["catalog-manager"]))
            for id in ("bowl", "cup", "mug"):
                await products.CreateProduct(create(id), metadata=carol)

            async def page_of(size: int) -> bool:
                return len((await products.ListProducts(pb.ListProductsRequest())).products) == size

            assert await page_of(3)
            await client.put(CONFIG, b'{"default_page_size": 2}')
            await eventually(lambda: page_of(2), "pages of two")
            await client.delete(CONFIG)
            await eventually(lambda: page_of(3), "pages of the default size")
    await client.close()
