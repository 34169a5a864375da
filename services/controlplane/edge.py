"""Reflection and health for all services together, as callers at the edge see them."""

from collections.abc import AsyncIterator

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis.reflection import add_reflection
from services.controlplane.contract import Contract
from services.controlplane.latest import Latest
from services.controlplane.model import Model

_HEALTH = "grpc.health.v1.Health"
_Answer = health_pb2.HealthCheckResponse

type Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]


def status(name: str, contract: Contract, model: Model | None) -> int:
    """SERVING when an instance is ready; SERVICE_UNKNOWN when no contract knows the service.

    A service is known by its name in the mesh and by its full name; "" is the edge itself.
    """
    if not name:
        return _Answer.SERVING
    service = name if name in contract.services else contract.service_of(name)
    if service is None:
        return _Answer.SERVICE_UNKNOWN
    return _Answer.SERVING if model is not None and model.ready(service) else _Answer.NOT_SERVING


class Health(health_pb2_grpc.HealthServicer):
    """grpc.health.v1."""

    def __init__(self, contract: Contract, models: Latest[Model]) -> None:
        self._contract = contract
        self._models = models

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        now = status(request.service, self._contract, self._models.value)
        if now == _Answer.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no service {request.service!r}.")
        return _Answer(status=now)

    async def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told = None
        while True:
            number = self._models.number
            now = status(request.service, self._contract, self._models.value)
            if now != told:
                yield _Answer(status=now)
                told = now
            await self._models.beyond(number)


def add_to(server: grpc.aio.Server, contract: Contract, models: Latest[Model]) -> None:
    """Registers health and reflection."""
    health_pb2_grpc.add_HealthServicer_to_server(Health(contract, models), server)
    add_reflection(server, [*contract.grpc_services, _HEALTH], _pool(contract))


def _pool(contract: Contract) -> descriptor_pool.DescriptorPool:
    """The contracts as they were generated, whatever else this process has imported, and health."""
    pool = descriptor_pool.DescriptorPool()
    health = descriptor_pb2.FileDescriptorProto()
    health_pb2.DESCRIPTOR.CopyToProto(health)
    for file in (*descriptor_pb2.FileDescriptorSet.FromString(contract.descriptors).file, health):
        pool.Add(file)
    return pool
