"""Each service itself tells its health and what it serves."""

from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from tests.mesh.calls import call, converse, health
from tests.support.contract import rpcs
from tests.support.refused import outcome
from tests.support.shop_fixtures import Past

FULL_NAMES = {rpc.service: rpc.path.split("/")[1] for rpc in rpcs()}


@pytest.mark.parametrize("service", FULL_NAMES)
async def test_a_service_answers_for_itself_and_for_no_other(past: Past, service: str) -> None:
    own, channel = FULL_NAMES[service], past[service]

    async def list_services() -> AsyncIterator[bytes]:
        yield reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()

    for version in ("v1", "v1alpha"):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        answer = await anext(aiter(converse(channel, path, list_services())))
        listed = reflection_pb2.ServerReflectionResponse.FromString(answer).list_services_response.service
        assert [one.name for one in listed if one.name.startswith("shop.")] == [own]
    assert await health(channel, "") == await health(channel, own) == 1
    assert (await outcome(health(channel, "unheard"))).code is grpc.StatusCode.NOT_FOUND
    for unheard in (f"/{own}/Unheard", "/unheard.Of/It"):
        assert (await outcome(call(channel, unheard, timeout=60))).code is grpc.StatusCode.UNIMPLEMENTED
