import protovalidate

from services.cli.demo_data import demo_products


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
