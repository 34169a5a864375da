"""The products and the stock that a new shop opens with, put there by carol through the edge.

`python -m services.cli.shop.demo_data` runs beside the supervisor, which keeps gRPC out of its own process, and goes by
the environment; `shopmesh demo-data` does the same in any shop.
Each call carries a request id that never changes, so whatever was loaded before stays as it is.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from typing import Any

import grpc
from google.type.money_pb2 import Money
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.product.v1 import product_pb2, product_pb2_grpc

from services.cli.identity import NoAnswer, access_token
from services.cli.places import Places
from services.failure import Failure

AT_ONCE = 8
DEADLINE_S = 60.0
"""For all of it: a mesh that has just come up may need a moment to know its services and Keycloak's keys."""
CALL_S = 5.0
PAUSE_S = 0.2
NOT_YET = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@dataclass(frozen=True, slots=True)
class DemoProduct:
    id: str
    name: str
    price: Decimal
    stock: int
    description: str

    def create_request(self) -> product_pb2.CreateProductRequest:
        units = int(self.price)
        price = Money(currency_code="EUR", units=units, nanos=int((self.price - units) * 10**9))
        product = product_pb2.Product(display_name=self.name, description=self.description, price=price)
        return product_pb2.CreateProductRequest(product_id=self.id, product=product, request_id=f"demo-{self.id}")

    def stock_request(self) -> inventory_pb2.AdjustStockRequest:
        name = f"products/{self.id}/stock"
        return inventory_pb2.AdjustStockRequest(name=name, delta=self.stock, request_id=f"demo-{self.id}")


def demo_products() -> list[DemoProduct]:
    """What stands in demo_data.json; prices are in EUR."""
    rows = json.loads((files("services.cli.shop") / "demo_data.json").read_text())
    return [
        DemoProduct(row["id"], row["name"], Decimal(row["price"]), row["stock"], row["description"]) for row in rows
    ]


async def load(places: Places) -> str:
    """Returns what is there now. Raises Failure when a call is refused or the mesh does not take it in time."""
    give_up = time.monotonic() + DEADLINE_S
    metadata = (("authorization", f"Bearer {await patient_token(places.token_url, give_up)}"),)
    gate = asyncio.Semaphore(AT_ONCE)

    async def call(method: Callable[..., Any], request: object) -> None:
        async with gate:
            await _call(method, request, metadata, give_up)

    async with grpc.aio.insecure_channel(places.edge) as channel:
        catalog = product_pb2_grpc.ProductServiceStub(channel)
        stock = inventory_pb2_grpc.InventoryServiceStub(channel)
        products = demo_products()
        try:
            async with asyncio.TaskGroup() as group:
                for product in products:
                    group.create_task(call(catalog.CreateProduct, product.create_request()))
                    group.create_task(call(stock.AdjustStock, product.stock_request()))
        except* grpc.aio.AioRpcError as errors:
            error = errors.exceptions[0]
            assert isinstance(error, grpc.aio.AioRpcError)
            raise Failure(f"demo data were refused: {error.code().name} {error.details()}") from None
    return f"{len(products)} products, {len(products)} stocked"


async def patient_token(url: str, give_up: float) -> str:
    """Carol's. The first one can take long on a machine that starts everything at once."""
    while True:
        try:
            return await asyncio.to_thread(access_token, url, "carol")
        except NoAnswer:
            if time.monotonic() > give_up:
                raise
        await asyncio.sleep(PAUSE_S)


async def _call(
    method: Callable[..., Any], request: object, metadata: tuple[tuple[str, str], ...], give_up: float
) -> None:
    """One call, repeated while the mesh is not there yet; a product that somebody else made is left alone."""
    while True:
        try:
            await method(request, metadata=metadata, timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                return
            if error.code() not in NOT_YET or time.monotonic() > give_up:
                raise
        else:
            return
        await asyncio.sleep(PAUSE_S)


def main() -> None:
    """Loads, and says in its last line what is there or why it is not."""
    try:
        print(asyncio.run(load(Places.of_environment())))
    except Failure as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
