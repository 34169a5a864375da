"""Health and reflection for every service of the contract, and what is said of what nobody has."""

from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.mesh.calls import call, converse, health
from tests.support.contract import rpcs
from tests.support.mesh import Mesh
from tests.support.waiting import eventually

FULL_NAMES = {rpc.service: rpc.path.split("/")[1] for rpc in rpcs()}
ALL_HEALTH = {health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING}


@pytest.mark.parametrize("service", FULL_NAMES)
async def test_each_service_has_one_health_under_both_its_names(edge: grpc.aio.Channel, service: str) -> None:
    async def same() -> bool:
        by_short, by_full = await health(edge, service), await health(edge, FULL_NAMES[service])
        return by_short == by_full and by_full in ALL_HEALTH

    await eventually(same, f"health of {service}")


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services_of_the_contract_and_health(edge: grpc.aio.Channel, version: str) -> None:
    async def list_services() -> AsyncIterator[bytes]:
        yield reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()

    answers = converse(edge, f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo", list_services())

    answer = reflection_pb2.ServerReflectionResponse.FromString(await anext(aiter(answers)))
    listed = {service.name for service in answer.list_services_response.service}
    assert listed - {"grpc.reflection.v1alpha.ServerReflection"} == {*FULL_NAMES.values(), "grpc.health.v1.Health"}


UNHEARD = ["/shop.product.v1.ProductService/Unheard", "/unheard.Of/It", "/grpc.health.v1.Health/List"]


@pytest.mark.parametrize("path", UNHEARD)
async def test_what_nobody_has_is_unimplemented_with_a_message(mesh: Mesh, edge: grpc.aio.Channel, path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as over_grpc:
        await call(edge, path, timeout=60)
    async with httpx.AsyncClient(base_url=f"http://{mesh.envoy.edge}", trust_env=False) as web:
        over_web = await web.post(path, content=bytes(5), headers={"content-type": "application/grpc-web+proto"})

    unimplemented = grpc.StatusCode.UNIMPLEMENTED
    assert (over_grpc.value.code(), int(over_web.headers["grpc-status"])) == (unimplemented, unimplemented.value[0])
    assert over_grpc.value.details() == over_web.headers["grpc-message"] != ""
