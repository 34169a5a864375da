"""A control plane for as many services as one likes: `python -m bench.many COUNT`, with the environment of any other.

The services are made up: a contract of three rpcs each, and the seeds of product for all.
"""

import os
import sys
from dataclasses import replace

import uvloop
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2
from mesh.v1 import auth_pb2

from services.chassis import logs
from services.chassis.settings import Settings
from services.controlplane.__main__ import SERVICE, serve
from services.controlplane.contract import Contract
from services.controlplane.seeds import Seeds
from services.files import resource

_Options = descriptor_pb2.MethodOptions
_SEEDED = "product"
# Of 5,000 instances Envoy would check 10,000 a second: no operator lets it. And where all are new at once, it takes
# longer than 0.3 s to ask the last of them.
_CHECKED_AS_EVER, _CHECKED_EVERY_S, _ANSWER_S = 50, 30, 10


def name(number: int) -> str:
    """Of a made-up service."""
    return f"s{number:03}"


def path(service: str) -> str:
    """Of its rpc that anybody may call."""
    return f"/bench.{service}.v1.Service/Get"


def descriptors(services: list[str]) -> bytes:
    """Their contracts, with all that they import."""
    files = descriptor_pb2.FileDescriptorSet.FromString(resource("gen/descriptors.binpb").read_bytes()).file
    known = [file for file in files if not file.name.startswith("shop/")]
    return descriptor_pb2.FileDescriptorSet(file=[*known, *map(_file, services)]).SerializeToString()


def _file(service: str) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"bench/{service}.proto",
        package=f"bench.{service}.v1",
        syntax="proto3",
        dependency=["google/api/annotations.proto", "google/protobuf/duration.proto", "mesh/v1/auth.proto"],
    )
    rpcs = file.service.add(name="Service")
    for method, rule, level in (
        ("Get", auth_pb2.Rule(public=True), _Options.NO_SIDE_EFFECTS),
        ("Change", auth_pb2.Rule(roles=["operator"]), _Options.IDEMPOTENT),
        ("Take", auth_pb2.Rule(clients=["order"]), _Options.IDEMPOTENCY_UNKNOWN),
    ):
        rpc = rpcs.method.add(
            name=method, input_type=".google.protobuf.Duration", output_type=".google.protobuf.Duration"
        )
        rpc.options.idempotency_level = level
        rpc.options.Extensions[auth_pb2.rule].CopyFrom(rule)
        if not rule.clients:
            http = http_pb2.HttpRule(post=f"/v1/{service}:{method.lower()}")
            rpc.options.Extensions[annotations_pb2.http].CopyFrom(http)  # type: ignore[index]  # published without types
    return file


def main() -> None:
    """Until SIGTERM."""
    services = [name(number) for number in range(int(sys.argv[1]))]
    contract = Contract.read(descriptors(services), b"{}")
    seeds = Seeds.read(resource("etcd/seed"), {_SEEDED: ()})
    policy = seeds.policies[_SEEDED]
    if len(services) > _CHECKED_AS_EVER:
        policy.health_check.interval.FromSeconds(_CHECKED_EVERY_S)
        policy.health_check.timeout.FromSeconds(_ANSWER_S)
    seeds = replace(
        seeds,
        policies=dict.fromkeys(services, policy),
        processes=dict.fromkeys(services, seeds.processes[_SEEDED]),
        methods=contract.methods,
    )
    settings = Settings.read(SERVICE, os.environ)
    logs.configure(settings.service, settings.instance)
    uvloop.run(serve(settings, contract, seeds))


if __name__ == "__main__":
    main()
