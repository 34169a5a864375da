"""Nobody gets in without the right token, at the edge and past it; nobody sees what is another customer's.

Tokens are Keycloak's own; tests/mesh/test_who_gets_in.py adds those that Keycloak never gives away.
"""

import uuid
from collections.abc import Sequence
from typing import Any

import grpc
import httpx
import pytest
from shop.order.v1 import order_pb2, order_pb2_grpc

from services.refusals import PageTokenInvalid
from tests.support.contract import Metadata, Rpc, rpcs
from tests.support.forgery import forgeries
from tests.support.installation import PEOPLE, Installation
from tests.support.rights import NOBODY, Caller, Token, Way, answers, deviations
from tests.support.shop_fixtures import Bearer, Past, ServiceToken, Stocked, order_of
from tests.support.waiting import eventually

SERVICES = ("product", "inventory", "order", "notification")


async def people(installation: Installation) -> list[Caller]:
    """Everybody in the realm, and who would like to be."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as keycloak:
        keys = (await keycloak.get(installation.token_url.removesuffix("token") + "certs")).json()["keys"]
    (public,) = [key for key in keys if key["use"] == "sig"]
    return [
        NOBODY,
        *(Caller(name, Token.BAD, text) for name, text in forgeries(installation.token("ann"), public).items()),
        *(Caller(name, Token.GOOD, installation.token(name), frozenset(roles)) for name, roles in PEOPLE.items()),
    ]


def services(token: ServiceToken) -> list[Caller]:
    return [Caller(f"the {name} service", Token.GOOD, token(name), client=name) for name in SERVICES]


async def all_is_as_the_contract_says(way: Way, callers: Sequence[Caller]) -> None:
    matrix = await answers([way], rpcs(), callers)

    wrong = deviations(matrix)
    assert not wrong, f"{len(wrong)} of {len(matrix)} calls:\n" + "\n".join(map(str, wrong))


@pytest.fixture
def at_the_edge(edge: grpc.aio.Channel) -> Way:
    return Way("at the edge", dict.fromkeys(SERVICES, edge), checked_by_envoy=True)


async def test_everybody_may_what_the_contract_says_and_nothing_else(
    installation: Installation, at_the_edge: Way
) -> None:
    await all_is_as_the_contract_says(at_the_edge, await people(installation))


async def test_services_may_no_more_at_the_edge_than_anybody_without_a_role(
    service_token: ServiceToken, at_the_edge: Way
) -> None:
    await all_is_as_the_contract_says(at_the_edge, services(service_token))


async def test_past_envoy_everybody_may_the_same(
    installation: Installation, service_token: ServiceToken, past: Past
) -> None:
    await all_is_as_the_contract_says(Way("past Envoy", past), [*await people(installation), *services(service_token)])


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
