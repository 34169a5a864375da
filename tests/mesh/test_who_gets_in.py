"""Nobody gets in without the right token, through Envoy and past it: the real services, and an issuer of our own.

With its key we make what Keycloak never gives away: tokens that are expired, or for somebody else.
tests/e2e/test_who_may_what.py asks the same with Keycloak's.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from urllib.parse import unquote

import grpc
import httpx
import pytest
from shop.order.v1 import order_pb2, order_pb2_grpc

from tests.support.contract import Rpc, rpcs
from tests.support.forgery import forgeries
from tests.support.issuer import AUDIENCE, Issuer
from tests.support.mesh import Mesh, running_mesh
from tests.support.nats import running_nats
from tests.support.postgres import Postgres
from tests.support.refused import outcome
from tests.support.rights import NOBODY, Answer, Caller, Token, Way, answers, deviations
from tests.support.serving import ServiceProcess, running_service
from tests.support.waiting import eventually

SERVICES = ("product", "inventory", "order", "notification")
ROLES = ("customer", "catalog-manager", "inventory-manager", "operator")
ANN = ("ann", ["customer"])


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


async def keys_are_known(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    """Envoy fetches the issuer's keys in the background."""
    orders = order_pb2_grpc.OrderServiceStub(edge)
    good = bearer(mesh.issuer.token(*ANN))

    async def look() -> bool:
        code = (await outcome(orders.ListOrders(order_pb2.ListOrdersRequest(), metadata=good))).code
        return code is grpc.StatusCode.OK

    await eventually(look, "a good token is taken")


# --- every rpc, every kind of token


def bad_tokens(issuer: Issuer) -> dict[str, str]:
    """Of an issuer that we have the key of, and of those who have not."""
    now = int(time.time())
    return forgeries(issuer.token(*ANN), issuer.key.jwk) | {
        "expired": issuer.token(*ANN, exp=now - 60),
        "not yet valid": issuer.token(*ANN, nbf=now + 60),
        "without expiry": issuer.token(*ANN, exp=None),
        "of another realm": issuer.token(*ANN, iss="http://localhost:1/realms/other"),
    }


def callers(issuer: Issuer) -> list[Caller]:
    """One for each thing that a rule may say, and for each that no rule lets in."""
    elsewhere = issuer.token(*ANN, aud="another-api")
    return [
        NOBODY,
        *(Caller(name, Token.BAD, text) for name, text in bad_tokens(issuer).items()),
        Caller("for another audience", Token.FOR_ANOTHER_AUDIENCE, elsewhere),
        Caller("no role", Token.GOOD, issuer.token("somebody")),
        *(Caller(f"the {role}", Token.GOOD, issuer.token(role, [role]), frozenset({role})) for role in ROLES),
        *(
            Caller(f"the {name} service", Token.GOOD, issuer.token(f"service-account-{name}", client=name), client=name)
            for name in SERVICES
        ),
    ]


@pytest.fixture(scope="module")
def whole_mesh() -> Iterator[Mesh]:
    with running_mesh() as mesh:
        yield mesh


@pytest.fixture(scope="module")
async def services(whole_mesh: Mesh, postgres: Postgres) -> AsyncIterator[dict[str, ServiceProcess]]:
    """The four of the shop, as Envoy sends calls to them."""
    with ExitStack() as stack:
        nats = stack.enter_context(running_nats())

        async def start(service: str) -> ServiceProcess:
            running = running_service(
                service,
                database_url=await postgres.make(f"services.{service}"),
                etcd=whole_mesh.etcd,
                issuer=whole_mesh.issuer,
                NATS_URL=nats.url,
                MESH=whole_mesh.envoy.mesh,
            )
            # In threads: side by side.
            return await asyncio.to_thread(stack.enter_context, running)

        running = dict(zip(SERVICES, await asyncio.gather(*map(start, SERVICES)), strict=True))
        await asyncio.gather(*(whole_mesh.healthy(service, 1) for service in SERVICES))
        yield running


@pytest.fixture(scope="module")
async def ways(whole_mesh: Mesh, services: dict[str, ServiceProcess]) -> AsyncIterator[list[Way]]:
    async with AsyncExitStack() as stack:

        async def channel(address: str, **options: str) -> grpc.aio.Channel:
            named = [(f"grpc.{name}", value) for name, value in options.items()]
            return await stack.enter_async_context(grpc.aio.insecure_channel(address, options=named))

        edge = await channel(whole_mesh.envoy.edge)
        await keys_are_known(whole_mesh, edge)
        yield [
            Way("at the edge", dict.fromkeys(SERVICES, edge), checked_by_envoy=True),
            Way("between services", {
                service: await channel(whole_mesh.envoy.mesh, default_authority=service) for service in SERVICES
            }),
            Way("past Envoy", {service: await channel(process.address) for service, process in services.items()}),
        ]  # fmt: skip


@pytest.fixture(scope="module")
async def matrix(ways: list[Way], whole_mesh: Mesh) -> list[Answer]:
    return await answers(ways, rpcs(), callers(whole_mesh.issuer))


async def test_every_rpc_lets_in_whom_its_rule_names_and_nobody_else(matrix: list[Answer]) -> None:
    wrong = deviations(matrix)
    assert not wrong, f"{len(wrong)} of {len(matrix)} calls:\n" + "\n".join(map(str, wrong))


@pytest.mark.parametrize("rpc", rpcs(), ids=lambda rpc: rpc.method)
async def test_an_rpc_that_kept_any_other_rule_would_be_found_out(matrix: list[Answer], rpc: Rpc) -> None:
    others = [
        rpc.under(public=True),
        *(rpc.under(roles=[role]) for role in ROLES),
        *(rpc.under(clients=[client]) for client in SERVICES),
    ]
    for other in others:
        under_other = [replace(answer, rpc=other) for answer in matrix if answer.rpc == rpc]
        assert bool(deviations(under_other)) == (other != rpc), other


# --- what Envoy says to browsers, and passes on


async def test_a_bad_token_is_refused_in_json_over_rest(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    await keys_are_known(mesh, edge)
    tokens = bad_tokens(mesh.issuer) | {"for another audience": mesh.issuer.token(*ANN, aud="another-api")}
    async with httpx.AsyncClient(base_url=f"http://{mesh.envoy.edge}", trust_env=False) as web:
        for name, token in tokens.items():
            refused = await web.get("/v1/orders", headers=dict(bearer(token)))

            status, code = (403, 7) if name == "for another audience" else (401, 16)
            assert (refused.status_code, refused.headers["content-type"]) == (status, "application/json"), name
            assert refused.json() | {"message": ""} == {"code": code, "message": "", "details": []}, name
            assert refused.json()["message"], name


async def test_whose_tokens_are_taken_is_told_at_every_door(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    """The most frequent mistake is a good token of an issuer that is called otherwise here."""
    await keys_are_known(mesh, edge)
    taken = f": tokens are taken from the issuer {mesh.issuer.url} for the audience {AUDIENCE}."
    foreign = bearer(mesh.issuer.token(*ANN, iss="http://keycloak:8080/realms/shop"))
    orders = order_pb2_grpc.OrderServiceStub(edge)

    async def over_grpc(metadata: Sequence[tuple[str, str]]) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await orders.ListOrders(order_pb2.ListOrdersRequest(), metadata=metadata)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        return str(error.value.details())

    async with httpx.AsyncClient(base_url=f"http://{mesh.envoy.edge}", trust_env=False) as web:
        over_rest = (await web.get("/v1/orders", headers=dict(foreign))).json()["message"]
        path = "/shop.order.v1.OrderService/ListOrders"
        headers = {"content-type": "application/grpc-web+proto", **dict(foreign)}
        over_web = (await web.post(path, content=bytes(5), headers=headers)).headers

    assert over_rest == f"Jwt issuer is not configured{taken}"
    assert await over_grpc(foreign) == over_rest
    assert (over_web["grpc-status"], unquote(over_web["grpc-message"])) == ("16", over_rest)
    assert await over_grpc(()) == f"Jwt is missing{taken}"


async def test_the_token_goes_on_to_the_service(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    await keys_are_known(mesh, edge)
    sent = bearer(mesh.issuer.token(*ANN))

    call = order_pb2_grpc.OrderServiceStub(edge).ListOrders(
        order_pb2.ListOrdersRequest(), metadata=(*sent, ("x-hear", "authorization"))
    )

    assert dict(await call.initial_metadata())["x-heard"] == sent[0][1]
