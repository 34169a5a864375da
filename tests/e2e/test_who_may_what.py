"""Nobody gets in without the right token, at the edge and past it; nobody sees what is another customer's.

Tokens are Keycloak's own; tests/mesh/test_who_gets_in.py adds those that Keycloak never gives away.
"""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import httpx
import pytest
from shop.order.v1 import order_pb2, order_pb2_grpc

from services.refusals import PageTokenInvalid
from tests.support.contract import Metadata, Rpc, rpcs
from tests.support.forgery import forgeries
from tests.support.rights import NOBODY, Caller, Token, Way, answers, deviations
from tests.support.shop import Shop
from tests.support.shop_fixtures import Bearer, Stocked, order_of
from tests.support.waiting import eventually

PEOPLE = {
    "ann": {"customer"},
    "bob": {"customer"},
    "carol": {"catalog-manager", "inventory-manager"},
    "oscar": {"operator"},
}
SERVICES = ("product", "inventory", "order", "notification")


async def callers(shop: Shop) -> list[Caller]:
    """Everybody in the realm, and who would like to be."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as keycloak:
        keys = (await keycloak.get(f"{shop.issuer}/protocol/openid-connect/certs")).json()["keys"]
    (public,) = [key for key in keys if key["use"] == "sig"]
    services = {name: shop.service_token(name) for name in SERVICES}
    people = {name: shop.token(name) for name in PEOPLE}
    return [
        NOBODY,
        *(Caller(name, Token.BAD, text) for name, text in forgeries(people["ann"], public).items()),
        *(Caller(name, Token.GOOD, people[name], frozenset(roles)) for name, roles in PEOPLE.items()),
        *(Caller(f"the {name} service", Token.GOOD, text, client=name) for name, text in services.items()),
    ]


@pytest.fixture
async def ways(shop: Shop, edge: grpc.aio.Channel) -> AsyncIterator[list[Way]]:
    parts = shop.parts()
    async with AsyncExitStack() as stack:
        past = {
            service: await stack.enter_async_context(grpc.aio.insecure_channel(str(parts[service]["address"])))
            for service in SERVICES
        }
        yield [Way("at the edge", dict.fromkeys(SERVICES, edge), checked_by_envoy=True), Way("past Envoy", past)]


async def test_everybody_may_what_the_contract_says_and_nothing_else(shop: Shop, ways: list[Way]) -> None:
    matrix = await answers(ways, rpcs(), await callers(shop))

    wrong = deviations(matrix)
    assert not wrong, f"{len(wrong)} of {len(matrix)} calls:\n" + "\n".join(map(str, wrong))


# --- whose it is


def for_customers(field: str) -> list[Rpc]:
    """The rpcs for customers that take this field."""
    return [rpc for rpc in rpcs() if "customer" in rpc.roles and rpc.takes(field)]


async def heard(edge: grpc.aio.Channel, rpc: Rpc, metadata: Metadata, **fields: object) -> tuple[object, ...]:
    """All that a refused caller is told: code, message, details; but for the name that they asked for themselves."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rpc.call(edge, rpc.request(**fields).SerializeToString(), metadata, 60)
    details = dict(refused.value.trailing_metadata())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    asked = str(fields.get("name", "")).encode()
    return refused.value.code(), refused.value.details(), details.replace(asked, b"?") if asked else details


async def placed(edge: grpc.aio.Channel, metadata: Metadata, request: order_pb2.PlaceOrderRequest) -> order_pb2.Order:
    answer = await order_pb2_grpc.OrderServiceStub(edge).PlaceOrder(request, metadata=metadata, timeout=60)
    return answer.order


@pytest.mark.parametrize("rpc", for_customers("name"), ids=lambda rpc: rpc.method)
async def test_what_is_anns_does_not_exist_for_bob(
    edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked, rpc: Rpc
) -> None:
    order = await placed(edge, bearer("ann"), order_of(await stocked(1)))
    nothing = f"orders/{uuid.uuid4()}"
    more = {"etag": '"99"'} if rpc.takes("etag") else {}

    of_ann = await heard(edge, rpc, bearer("bob"), name=order.name, **more)

    assert of_ann == await heard(edge, rpc, bearer("bob"), name=nothing, **more)
    assert of_ann[0] is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("rpc", for_customers("page_token"), ids=lambda rpc: rpc.method)
async def test_a_list_is_its_readers_own_and_so_are_its_page_tokens(
    edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked, rpc: Rpc
) -> None:
    thing = await stocked(3)
    anns, *_ = [await placed(edge, bearer(who), order_of(thing)) for who in ("ann", "ann", "bob")]

    async def read(who: str, page_size: int) -> Any:
        return rpc.response.FromString(
            await rpc.call(edge, rpc.request(page_size=page_size).SerializeToString(), bearer(who), 60)
        )

    async def anns_next_page() -> str:
        return str((await read("ann", 1)).next_page_token)

    token = await eventually(anns_next_page, "ann has two of them")
    refusal = await heard(edge, rpc, bearer("bob"), page_token=token)

    assert (refusal[0], refusal[1]) == (grpc.StatusCode.INVALID_ARGUMENT, PageTokenInvalid.message)
    assert anns.customer.encode() in (await read("ann", 100)).SerializeToString()
    assert anns.customer.encode() not in (await read("bob", 100)).SerializeToString()


async def test_a_request_id_is_the_callers_own(edge: grpc.aio.Channel, bearer: Bearer, stocked: Stocked) -> None:
    request = order_of(await stocked(2))

    anns = await placed(edge, bearer("ann"), request)
    bobs = await placed(edge, bearer("bob"), request)

    assert anns.name != bobs.name
    assert anns.customer != bobs.customer
