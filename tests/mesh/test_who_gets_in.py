"""Tokens and roles at the edge: Envoy's first check."""

from collections.abc import Awaitable

import grpc
import httpx
import pytest
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.order.v1 import order_pb2, order_pb2_grpc
from shop.product.v1 import product_pb2, product_pb2_grpc

from tests.support.issuer import Issuer, Key
from tests.support.mesh import Mesh
from tests.support.refused import outcome
from tests.support.waiting import eventually

OK, UNAUTHENTICATED, DENIED = (
    grpc.StatusCode.OK,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)

# What is sent, what an rpc for customers answers, what a public one answers, the HTTP status of the former.
TOKENS = [
    ("none", UNAUTHENTICATED, OK, 401),
    ("good", OK, OK, 200),
    ("garbage", UNAUTHENTICATED, UNAUTHENTICATED, 401),
    ("expired", UNAUTHENTICATED, UNAUTHENTICATED, 401),
    ("without expiry", UNAUTHENTICATED, UNAUTHENTICATED, 401),
    ("of another realm", UNAUTHENTICATED, UNAUTHENTICATED, 401),
    ("for another audience", DENIED, DENIED, 403),
    ("forged with another key", UNAUTHENTICATED, UNAUTHENTICATED, 401),
    ("without signature", UNAUTHENTICATED, UNAUTHENTICATED, 401),
]
ANN = ("ann", ["customer"])
FORGER = Key("test-1")
NOBODYS_TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ."


def token(issuer: Issuer, kind: str) -> str | None:
    match kind:
        case "good":
            return issuer.token(*ANN)
        case "garbage":
            return "garbage"
        case "expired":
            return issuer.token(*ANN, exp=1_700_000_000)
        case "without expiry":
            return issuer.token(*ANN, exp=None)
        case "of another realm":
            return issuer.token(*ANN, iss="http://localhost:1/realms/other")
        case "for another audience":
            return issuer.token(*ANN, aud="another-api")
        case "forged with another key":
            return issuer.token(*ANN, key=FORGER)
        case "without signature":
            return NOBODYS_TOKEN
        case _:
            return None


def bearer(token: str | None) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")] if token else []


async def keys_are_known(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    """Envoy fetches the issuer's keys in the background."""
    orders = order_pb2_grpc.OrderServiceStub(edge)
    good = bearer(mesh.issuer.token(*ANN))

    async def look() -> bool:
        return (await outcome(orders.ListOrders(order_pb2.ListOrdersRequest(), metadata=good))).code is OK

    await eventually(look, "a good token is taken")


@pytest.mark.parametrize(("kind", "for_customers", "public", "http"), TOKENS)
async def test_a_token_opens_what_it_should(
    mesh: Mesh,
    edge: grpc.aio.Channel,
    kind: str,
    for_customers: grpc.StatusCode,
    public: grpc.StatusCode,
    http: int,
) -> None:
    await keys_are_known(mesh, edge)
    sent = bearer(token(mesh.issuer, kind))
    orders, products = order_pb2_grpc.OrderServiceStub(edge), product_pb2_grpc.ProductServiceStub(edge)

    listed = await outcome(orders.ListOrders(order_pb2.ListOrdersRequest(), metadata=sent))
    got = await outcome(products.GetProduct(product_pb2.GetProductRequest(name="products/mug"), metadata=sent))
    async with httpx.AsyncClient(trust_env=False) as web:
        rest = await web.get(f"http://{mesh.envoy.edge}/v1/orders", headers=dict(sent))

    assert (listed.code, got.code, rest.status_code) == (for_customers, public, http)
    if http != 200:
        refusal = rest.json()
        assert rest.headers["content-type"] == "application/json"
        assert (refusal["code"], refusal["details"]) == (for_customers.value[0], [])
        assert refusal["message"]


RIGHTS = [
    ("customer", {"PlaceOrder"}),
    ("catalog-manager", {"CreateProduct"}),
    ("inventory-manager", {"AdjustStock"}),
    ("operator", set[str]()),
]


@pytest.mark.parametrize(("role", "may"), RIGHTS)
async def test_a_role_opens_its_rpcs_and_no_others(
    mesh: Mesh, edge: grpc.aio.Channel, role: str, may: set[str]
) -> None:
    await keys_are_known(mesh, edge)
    sent = bearer(mesh.issuer.token("somebody", ["offline_access", role]))

    answers: dict[str, Awaitable[object]] = {
        "PlaceOrder": order_pb2_grpc.OrderServiceStub(edge).PlaceOrder(order_pb2.PlaceOrderRequest(), metadata=sent),
        "CreateProduct": product_pb2_grpc.ProductServiceStub(edge).CreateProduct(
            product_pb2.CreateProductRequest(), metadata=sent
        ),
        "AdjustStock": inventory_pb2_grpc.InventoryServiceStub(edge).AdjustStock(
            inventory_pb2.AdjustStockRequest(), metadata=sent
        ),
    }
    codes = {rpc: (await outcome(call)).code for rpc, call in answers.items()}

    assert codes == {rpc: OK if rpc in may else DENIED for rpc in answers}


async def test_rpcs_for_service_clients_have_no_way_in(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    await keys_are_known(mesh, edge)
    sent = bearer(mesh.issuer.token("service-account-order", client="order"))
    inventory = inventory_pb2_grpc.InventoryServiceStub(edge)

    refused = await outcome(inventory.ReserveStock(inventory_pb2.ReserveStockRequest(), metadata=sent))

    assert refused.code is grpc.StatusCode.UNIMPLEMENTED


async def test_the_token_goes_on_to_the_service(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    await keys_are_known(mesh, edge)
    sent = bearer(mesh.issuer.token(*ANN))

    call = order_pb2_grpc.OrderServiceStub(edge).ListOrders(order_pb2.ListOrdersRequest(), metadata=sent)

    heard = dict(await call.initial_metadata())
    assert heard["x-heard-authorization"] == sent[0][1]
