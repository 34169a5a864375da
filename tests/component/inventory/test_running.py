"""The inventory service as a process."""

from uuid import uuid4

import grpc
from shop.inventory.v1 import inventory_pb2 as pb
from shop.inventory.v1.inventory_pb2_grpc import InventoryServiceStub

from services.chassis.etcd import Etcd
from tests.component.inventory.test_answering_calls import adjust, reserve
from tests.support.etcd import EtcdServer
from tests.support.issuer import running_issuer
from tests.support.postgres import Postgres
from tests.support.serving import bearing, running_service
from tests.support.waiting import eventually

CONFIG = "/shop/config/inventory"


async def test_holds_expire_while_it_runs_as_often_as_etcd_says(postgres: Postgres, etcd: EtcdServer) -> None:
    client, database_url = Etcd(etcd.endpoint), await postgres.make("services.inventory")
    await client.put(CONFIG, b'{"reap_interval": "3600s"}')
    with (
        running_issuer() as issuer,
        running_service("inventory", database_url=database_url, etcd=etcd, issuer=issuer) as process,
    ):
        async with grpc.aio.insecure_channel(process.address) as channel:
            inventory = InventoryServiceStub(channel)
            carol = bearing(issuer.token("carol", ["inventory-manager"]))
            order = bearing(issuer.token("service-account-order", client="order"))
            await inventory.AdjustStock(adjust("mug", 1), metadata=carol)
            await inventory.ReserveStock(reserve(str(uuid4()), ttl_s=1, mug=1), metadata=order)

            await client.put(CONFIG, b'{"reap_interval": "0.1s"}')

            async def is_free() -> bool:
                got = await inventory.GetStock(pb.GetStockRequest(name="products/mug/stock"))
                return got.stock.available == 1

            await eventually(is_free, "the hold has expired")
    await client.delete(CONFIG)
    await client.close()


async def test_a_changed_page_size_takes_effect_while_it_runs(postgres: Postgres, etcd: EtcdServer) -> None:
    client, database_url = Etcd(etcd.endpoint), await postgres.make("services.inventory")
    with (
        running_issuer() as issuer,
        running_service("inventory", database_url=database_url, etcd=etcd, issuer=issuer) as process,
    ):
        async with grpc.aio.insecure_channel(process.address) as channel:
            inventory = InventoryServiceStub(channel)
            carol = bearing(issuer.token("carol", ["inventory-manager"]))
            for product in ("bowl", "cup", "mug"):
                await inventory.AdjustStock(adjust(product, 1, product), metadata=carol)

            async def page_of(size: int) -> bool:
                return len((await inventory.ListStock(pb.ListStockRequest(), metadata=carol)).stock) == size

            assert await page_of(3)
            await client.put(CONFIG, b'{"default_page_size": 2}')
            await eventually(lambda: page_of(2), "pages of two")
            await client.delete(CONFIG)
            await eventually(lambda: page_of(3), "pages of the default size")
    await client.close()
