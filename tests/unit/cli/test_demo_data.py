import asyncio
import time

import protovalidate
import pytest

from services.cli.identity import NoAnswer
from services.cli.shop.demo_data import demo_products, patient_token
from tests.support.waiting import DEADLINE_S


def test_the_demo_catalogue_keeps_the_rules_of_the_contract() -> None:
    products = demo_products()

    for product in products:
        protovalidate.validate(product.create_request())
        protovalidate.validate(product.stock_request())
    assert len({product.id for product in products}) == len(products) == 24


def test_prices_are_exact() -> None:
    mug = next(product for product in demo_products() if product.id == "blue-mug")

    price = mug.create_request().product.price
    assert (price.currency_code, price.units, price.nanos) == ("EUR", 12, 500_000_000)


async def test_a_first_token_may_take_more_than_one_try() -> None:
    asked = 0

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{"access_token":"t"}')
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as keycloak:
        issuer = f"http://127.0.0.1:{keycloak.sockets[0].getsockname()[1]}"
        assert await patient_token(issuer, time.monotonic() + DEADLINE_S) == "t"
        asked = 0
        with pytest.raises(NoAnswer):
            await patient_token(issuer, time.monotonic())
