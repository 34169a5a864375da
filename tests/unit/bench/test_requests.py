"""What the benchmark sends is what the contracts take."""

import pytest
from shop.order.v1 import order_pb2
from shop.product.v1 import product_pb2

from bench.contenders import calls_of_the_shop
from bench.load import STAMP, variants
from services.chassis.messages import violations


@pytest.mark.parametrize(
    ("call", "request_type", "stamps"),
    [
        ("PlaceOrder", order_pb2.PlaceOrderRequest, 1),
        ("GetProduct", product_pb2.GetProductRequest, 0),
        ("ListOrders", order_pb2.ListOrdersRequest, 0),
    ],
)
def test_every_variant_of_a_request_is_valid(
    call: str,
    request_type: type[order_pb2.PlaceOrderRequest | order_pb2.ListOrdersRequest | product_pb2.GetProductRequest],
    stamps: int,
) -> None:
    for encoded, _ in variants(calls_of_the_shop("nobody:1")[call])[:50]:
        assert not violations(request_type.FromString(encoded))
        assert encoded.count(STAMP) == stamps
