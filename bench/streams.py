"""Envoys that only listen: `python -m bench.streams ADDRESS COUNT` keeps COUNT streams to a control plane.

Each asks for what an Envoy asks for, and acknowledges everything. A line on its input is answered by one with what all
of them have received so far, in bytes, once each has what it asked for.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import grpc
import uvloop
from google.protobuf.message import Message

from services.controlplane.discovery import parts_of
from services.controlplane.resources.stencils import field as encoded
from services.controlplane.snapshot import Kind

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
_EDS = 3  # Cluster.type


@dataclass(slots=True)
class Stream:
    """One of them."""

    bytes_received: int = 0
    told: asyncio.Event = field(default_factory=asyncio.Event)
    """It has had clusters and assignments."""

    async def run(self, address: str) -> None:
        """Until the control plane goes."""
        async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
            call = method()
            wanted = {Kind.CLUSTER: b"", Kind.LISTENER: b"", Kind.ROUTES: _wanted("edge", "mesh")}
            for kind, names in wanted.items():
                await call.write(_request(kind, names))
            while isinstance(encoded_response := await call.read(), bytes):
                self.bytes_received += len(encoded_response)
                response: Any = _parts()["Response"].FromString(encoded_response)
                kind = Kind(response.type_url)
                if kind is Kind.CLUSTER and Kind.ASSIGNMENT not in wanted:
                    wanted[Kind.ASSIGNMENT] = _wanted(*_with_assignments(response.resources))
                    await call.write(_request(Kind.ASSIGNMENT, wanted[Kind.ASSIGNMENT]))
                if kind is Kind.ASSIGNMENT:
                    self.told.set()
                await call.write(_request(kind, wanted[kind], response.version_info, response.nonce))


def _with_assignments(clusters: Sequence[Any]) -> list[str]:
    parsed: list[Any] = [_parts()["Cluster"].FromString(cluster.value) for cluster in clusters]
    return [cluster.name for cluster in parsed if cluster.type == _EDS]


def _wanted(*names: str) -> bytes:
    return b"".join(encoded(3, name.encode()) for name in names)


def _request(kind: Kind, wanted: bytes, version: str = "", nonce: str = "") -> bytes:
    return encoded(1, version.encode()) + wanted + encoded(4, kind.value.encode()) + encoded(5, nonce.encode())


@cache
def _parts() -> Mapping[str, type[Message]]:
    """To read a response must not cost more than to make it."""
    return parts_of(
        {
            "Any": {"value": (2, "bytes")},
            "Cluster": {"name": (1, "string"), "type": (2, "int32")},
            "Response": {
                "version_info": (1, "string"),
                "resources": (2, "repeated Any"),
                "type_url": (4, "string"),
                "nonce": (5, "string"),
            },
        }
    )


async def _main(address: str, count: int) -> None:
    streams = [Stream() for _ in range(count)]
    async with asyncio.TaskGroup() as group:
        for stream in streams:
            group.create_task(stream.run(address))
        while await asyncio.to_thread(sys.stdin.readline):
            await asyncio.gather(*(stream.told.wait() for stream in streams))
            print(sum(stream.bytes_received for stream in streams), flush=True)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2])))
