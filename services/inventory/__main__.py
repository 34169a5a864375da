"""`python -m services.inventory`: one process of the inventory service."""

from shop.inventory.v1.config_pb2 import InventoryConfig
from shop.inventory.v1.inventory_pb2_grpc import add_InventoryServiceServicer_to_server

from services.chassis.messages import from_duration
from services.chassis.server import Process, run
from services.inventory.api import InventoryService
from services.inventory.backlog import backlog
from services.inventory.reaper import Reaper
from services.inventory.store import SqlReservations, SqlStocks
from services.inventory.use_cases import Stocktaking, Warehouse


async def wire(process: Process[InventoryConfig]) -> None:
    """Stock and reservations lie in one database, and a reaper goes round in it."""
    database = await process.database("services.inventory")
    warehouse = Warehouse(SqlReservations(database))
    stocktaking = Stocktaking(SqlStocks(database))
    servicer = InventoryService(warehouse, stocktaking, lambda: process.config.current, process.domain)
    process.add(add_InventoryServiceServicer_to_server, servicer)
    reaper = Reaper(warehouse, lambda: from_duration(process.config.current.reap_interval))
    process.config.subscribe(lambda _: reaper.interval_changed())
    process.background("reaper", reaper.run)
    process.watch(backlog(database))


if __name__ == "__main__":
    run("inventory", InventoryConfig, wire)
