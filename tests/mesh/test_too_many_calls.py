"""Nobody outside may call without end: each person and each address has a bucket per service."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import httpx
import pytest
from shop.product.v1 import product_pb2

from services.chassis.etcd import Etcd
from tests.mesh.calls import Metadata, call
from tests.mesh.test_who_gets_in import bearer, keys_are_known
from tests.support.mesh import Mesh
from tests.support.refused import outcome
from tests.support.waiting import eventually

OK, EXHAUSTED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED
LIST_ORDERS = "/shop.order.v1.OrderService/ListOrders"
GET_ORDER = "/shop.order.v1.OrderService/GetOrder"
GET_PRODUCT = "/shop.product.v1.ProductService/GetProduct"
LIST_PRODUCTS = "/shop.product.v1.ProductService/ListProducts"
TOO_MANY = "Too many calls: come back when the seconds of retry-after have passed."
HEALTH = "/grpc.health.v1.Health/Check"


@asynccontextmanager
async def policy(mesh: Mesh, service: str, **rate_limit: object) -> AsyncIterator[None]:
    """A service under another rate limit, from when Envoy has it; buckets are full then."""
    etcd, key = Etcd(mesh.etcd.endpoint), f"/shop/policy/{service}"

    async def taken(before: int) -> None:
        async def look() -> bool:
            return mesh.envoy.number("http.edge.rds.edge.update_success") > before

        await eventually(look, f"Envoy has the policy of {service}")

    try:
        before = mesh.envoy.number("http.edge.rds.edge.update_success")
        await etcd.put(key, json.dumps({"rate_limit": rate_limit}).encode())
        await taken(before)
        yield
        before = mesh.envoy.number("http.edge.rds.edge.update_success")
    finally:
        await etcd.delete(key)
        await etcd.close()
    await taken(before)


async def ann(mesh: Mesh, edge: grpc.aio.Channel) -> Metadata:
    await keys_are_known(mesh, edge)
    return bearer(mesh.issuer.token("ann", ["customer"]))


async def codes(edge: grpc.aio.Channel, paths: list[str], times: int, metadata: Metadata = ()) -> Counter[object]:
    """How so many calls of each path end."""
    calls = [call(edge, path, metadata=metadata) for path in paths * times]
    return Counter([(await outcome(one)).code for one in calls])


def few(burst: int, calls: int = 1, per: str = "1000s") -> dict[str, object]:
    return {"calls": calls, "per": per, "burst": burst}


async def test_one_persons_flood_is_refused_while_another_is_served(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    flood = await ann(mesh, edge)
    bob = bearer(mesh.issuer.token("bob", ["customer"]))
    async with policy(mesh, "order", user=few(burst=5)):
        # All rpcs of the service draw from one bucket, whatever the caller's headers say.
        spoofed = [*flood, ("x-forwarded-for", "192.0.2.1"), ("x-sub", "bob"), ("sub", "bob")]

        assert await codes(edge, [LIST_ORDERS, GET_ORDER], 5, spoofed) == {OK: 5, EXHAUSTED: 5}
        assert await codes(edge, [LIST_ORDERS, GET_ORDER], 2, bob) == {OK: 4}


async def test_a_service_does_not_answer_for_the_calls_to_another(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    sent = await ann(mesh, edge)
    carol = bearer(mesh.issuer.token("ann", ["catalog-manager"]))
    async with policy(mesh, "order", user=few(burst=1)):
        assert await codes(edge, [LIST_ORDERS], 2, sent) == {OK: 1, EXHAUSTED: 1}
        assert await codes(edge, ["/shop.product.v1.ProductService/CreateProduct"], 5, carol) == {OK: 5}


async def test_a_thousand_people_have_a_bucket_each(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    await keys_are_known(mesh, edge)
    people = [bearer(mesh.issuer.token(f"customer-{number}", ["customer"])) for number in range(1000)]

    async def round() -> Counter[object]:
        """One call of each, in turn: who shares a bucket, or loses it, is found out."""
        ended: Counter[object] = Counter()
        for at in range(0, len(people), 100):
            calls = [call(edge, LIST_ORDERS, metadata=person) for person in people[at : at + 100]]
            ended.update([(await outcome(one)).code for one in calls])
        return ended

    async with policy(mesh, "order", user=few(burst=2)):
        assert [await round(), await round(), await round()] == [{OK: 1000}, {OK: 1000}, {EXHAUSTED: 1000}]


async def test_public_rpcs_are_counted_by_address_with_or_without_a_token(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    sent = await ann(mesh, edge)
    async with policy(mesh, "product", address=few(burst=6)):
        elsewhere = [("x-forwarded-for", "192.0.2.1"), ("x-real-ip", "192.0.2.1"), ("forwarded", "for=192.0.2.1")]

        assert await codes(edge, [GET_PRODUCT, LIST_PRODUCTS], 2, sent) == {OK: 4}
        assert await codes(edge, [GET_PRODUCT, LIST_PRODUCTS], 2, elsewhere) == {OK: 2, EXHAUSTED: 2}
        assert await codes(edge, ["/shop.inventory.v1.InventoryService/GetStock"], 5) == {OK: 5}


async def test_every_door_says_so_and_when_to_come_back(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    async with (
        policy(mesh, "product", address=few(burst=1, calls=3, per="60s")),
        httpx.AsyncClient(base_url=f"http://{mesh.envoy.edge}", trust_env=False) as web,
    ):
        origin = {"origin": "http://shop.example"}
        asked = origin | {"access-control-request-method": "GET"}
        for _ in range(5):
            assert (await web.options("/v1/products/mug", headers=asked)).status_code == 200
        assert (await web.get("/v1/products/mug", headers=origin)).status_code == 200

        rest = await web.get("/v1/products/mug", headers=origin)
        framed = b"\0\0\0\0\0"
        grpc_web = await web.post(GET_PRODUCT, content=framed, headers={"content-type": "application/grpc-web+proto"})
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(edge, GET_PRODUCT, product_pb2.GetProductRequest(name="products/mug").SerializeToString())

    assert (rest.status_code, rest.json() | {"message": ""}) == (429, {"code": 8, "message": "", "details": []})
    assert rest.headers["content-type"] == "application/json"
    assert rest.headers["access-control-allow-origin"] == origin["origin"]
    assert "retry-after" in rest.headers["access-control-expose-headers"]
    assert grpc_web.headers["grpc-status"] == str(EXHAUSTED.value[0])
    told = [*(refused.value.initial_metadata() or ()), *(refused.value.trailing_metadata() or ())]
    assert [rest.headers["retry-after"], grpc_web.headers["retry-after"], dict(told)["retry-after"]] == ["20"] * 3
    assert refused.value.code() is EXHAUSTED
    assert rest.json()["message"] == grpc_web.headers["grpc-message"] == refused.value.details() == TOO_MANY


async def test_a_bucket_fills_again(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    sent = await ann(mesh, edge)
    async with policy(mesh, "order", user=few(burst=2, calls=10, per="1s")):
        assert (await codes(edge, [LIST_ORDERS], 20, sent))[EXHAUSTED] > 0

        async def look() -> bool:
            return await codes(edge, [LIST_ORDERS], 1, sent) == {OK: 1}

        await eventually(look, "a token has come back", deadline_s=5)


async def test_zero_lifts_a_limit_live_and_the_seed_comes_back(mesh: Mesh, edge: grpc.aio.Channel) -> None:
    sent = await ann(mesh, edge)
    async with policy(mesh, "order", user={"calls": 0}):
        assert await codes(edge, [LIST_ORDERS], 600, sent) == {OK: 600}

    seed = await codes(edge, [LIST_ORDERS], 600, sent)

    # 100 at once, and 50 more in each second that the calls took.
    assert seed[OK] >= 100
    assert seed[EXHAUSTED] > 0


async def test_what_is_answered_for_all_services_has_a_limit_that_no_policy_lifts(
    mesh: Mesh, edge: grpc.aio.Channel
) -> None:
    ended: Counter[object] = Counter()

    async def flood() -> None:
        while True:
            ended[(await outcome(call(edge, HEALTH))).code] += 1

    callers = [asyncio.create_task(flood()) for _ in range(50)]
    async with httpx.AsyncClient(base_url=f"http://{mesh.envoy.edge}", trust_env=False) as web:

        async def both_refused() -> bool:
            document = (await web.get("/openapi.json")).status_code
            ended[OK] += document == 200
            return document == 429 and ended[EXHAUSTED] > 0

        await eventually(both_refused, "calls and the document share the limit")
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)

    assert ended[OK] >= 400
