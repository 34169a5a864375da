"""A whole process of the chassis to be started by tests: `python -m tests.support.ruled_process`.

It serves Echo as the service `product`. Its rpcs do what the text of the request says; its stream lasts. Its background
task says when it is cancelled. With DATABASE_FIRST in its environment it waits for its database.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from shop.product.v1 import config_pb2

from services.chassis import logs, server
from tests.support.ruled_echo import Echo, Text, add_echo

ORDER = "orders/6d1e4c0a-2f9b-5b7e-9a54-0f6f8a2f3c11"

log = logs.get()


async def wire(process: server.Process[config_pb2.ProductConfig]) -> None:
    async def say(request: Any, context: Any) -> Any:
        if request.text == "slow":
            log.info("slow call begun")
            await asyncio.sleep(1)
        if request.text == "an order":
            logs.bind_order(ORDER)
            log.warning("said of the order", reason="OUT_OF_STOCK")
        if request.text == "page size":
            return Text(text=str(process.config.current.default_page_size))
        return request

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        yield request
        await asyncio.Event().wait()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.info("background task ended")

    if "DATABASE_FIRST" in os.environ:
        await process.database("services.product")
    process.background("work", work)
    process.add(add_echo, Echo(say, watch))


if __name__ == "__main__":
    server.run("product", config_pb2.ProductConfig, wire)
