"""Envoys that only listen: `python -m bench.streams ADDRESS COUNT` keeps COUNT streams to a control plane.

Each asks for what an Envoy asks for, and acknowledges everything. A line on its input is answered by one with what all
of them have received so far, in bytes, once each has what it asked for.
"""

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import uvloop
from envoy_data_plane.envoy.config.cluster.v3 import Cluster

from services.controlplane.resources.encoding import field as encoded
from services.controlplane.snapshot import Kind

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
_EDS = 3  # Cluster.type


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field; all of them are length-delimited in what is read here."""
    at = 0
    while at < len(message):
        number, at = _varint(message, at)
        length, at = _varint(message, at)
        yield number >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


@dataclass(slots=True)
class Stream:
    """One of them."""

    bytes_received: int = 0
    told: asyncio.Event = field(default_factory=asyncio.Event)
    """It has had clusters, assignments, listeners and routes."""

    async def run(self, address: str) -> None:
        """Until the control plane goes."""
        async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
            call = method()
            names: dict[Kind, list[str]] = {Kind.CLUSTER: [], Kind.LISTENER: [], Kind.ROUTES: ["edge", "mesh"]}
            for kind in (Kind.CLUSTER, Kind.LISTENER, Kind.ROUTES):
                await call.write(_request(kind, names[kind]))
            while isinstance(message := await call.read(), bytes):
                self.bytes_received += len(message)
                parts = dict[int, bytes]()
                resources = []
                for number, content in fields(message):
                    if number == 2:
                        resources.append(content)
                    else:
                        parts[number] = content
                kind = Kind(parts[4].decode())
                if kind is Kind.CLUSTER and Kind.ASSIGNMENT not in names:
                    clusters = (Cluster.parse(dict(fields(resource))[2]) for resource in resources)
                    names[Kind.ASSIGNMENT] = [cluster.name for cluster in clusters if cluster.type == _EDS]
                    await call.write(_request(Kind.ASSIGNMENT, names[Kind.ASSIGNMENT]))
                if kind is Kind.ASSIGNMENT:
                    self.told.set()
                await call.write(_request(kind, names[kind], parts[1], parts[5]))


def _request(kind: Kind, names: list[str], version: bytes = b"", nonce: bytes = b"") -> bytes:
    wanted = b"".join(encoded(3, name.encode()) for name in names)
    return encoded(1, version) + wanted + encoded(4, kind.value.encode()) + encoded(5, nonce)


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
