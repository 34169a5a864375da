"""A closed loop of workers against one rpc or one HTTP address: `python -m bench.load ORDER`, both ways JSON.

In Python because every machine that runs the shop has it. Requests are encoded before the clock starts and answers are
not decoded, so that a call costs the generator some 0.1 ms; what it took in all stands in its report. The first call
that fails ends it with exit code 1.
"""

import asyncio
import json
import random
import resource
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

PRODUCTS = 200
"""Every contender sells p-000 to p-199, and never runs out."""
VARIANTS = 1000
CONNECTIONS = 8
TIMEOUT_S = 30.0
STAMP = b"00000000-0000-4000-8000-000000000000"
"""Stands in an encoded request where each call has an id of its own."""

type Caller = Callable[[bytes, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request in many variants. `{product}`, `{other}` (another one), `{quantity}` and `{id}` are filled in."""

    address: str
    method: str
    """`package.Service/Method`, or `POST /path` for HTTP."""
    template: str
    """The request as JSON."""
    descriptors: str = ""
    """A file that describes the rpc; none for HTTP."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the generator is asked to do."""

    call: Call
    tokens: Sequence[str]
    """Connections take them in turn."""
    concurrency: int
    warm_s: float
    seconds: float

    def sent(self) -> dict[str, Any]:
        """Lets a process of its own do it, and returns what that found. Raises RuntimeError when a call failed."""
        command = [sys.executable, "-m", "bench.load", json.dumps(asdict(self))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.call.method}: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def filled(template: str) -> str:
    """One variant of a request."""
    first, second = random.sample(range(PRODUCTS), 2)
    values = {"{product}": f"p-{first:03}", "{other}": f"p-{second:03}", "{quantity}": str(random.randint(1, 3))}
    for name, value in {**values, "{id}": STAMP.decode()}.items():
        template = template.replace(name, value)
    return template


def request_type(call: Call) -> type[Message]:
    """The message that its rpc takes."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(Path(call.descriptors).read_bytes()).file:
        pool.Add(file)
    service, _, method = call.method.partition("/")
    return message_factory.GetMessageClass(pool.FindServiceByName(service).methods_by_name[method].input_type)


def variants(call: Call) -> list[tuple[bytes, str]]:
    """Encoded requests, each with its path for HTTP. Raises json_format.ParseError for what is not the contract's."""
    if not call.descriptors:
        path = call.method.partition(" ")[2]
        return [(filled(call.template).encode(), filled(path)) for _ in range(VARIANTS)]
    request = request_type(call)
    return [(json_format.Parse(filled(call.template), request()).SerializeToString(), "") for _ in range(VARIANTS)]


def percentile(ordered: Sequence[float], share: float) -> float:
    """In milliseconds."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


def cpu_seconds() -> float:
    """Of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class OverGrpc:
    """Connections of their own, as that many clients have."""

    def __init__(self, call: Call, tokens: Sequence[str], number: int) -> None:
        # Without a pool of its own each channel would share one connection.
        self._channel = grpc.aio.insecure_channel(call.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._invoke: Callable[..., Awaitable[bytes]] = self._channel.unary_unary(f"/{call.method}")
        self._metadata = (("authorization", f"Bearer {tokens[number % len(tokens)]}"),)

    async def __call__(self, body: bytes, _: str) -> None:
        await self._invoke(body, metadata=self._metadata, timeout=TIMEOUT_S)


class OverHttp:
    """HTTP/1.1 with keep-alive, one call at a time per worker."""

    def __init__(self, call: Call, tokens: Sequence[str], number: int) -> None:
        self._call, self._token = call, tokens[number % len(tokens)]
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __call__(self, body: bytes, path: str) -> None:
        if self._streams is None:
            host, port = self._call.address.split(":")
            self._streams = await asyncio.open_connection(host, int(port))
        reader, writer = self._streams
        verb = self._call.method.partition(" ")[0]
        writer.write(
            f"{verb} {path} HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {self._token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        answer = await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"{head.decode()}{answer.decode()}")


async def run(order: Order) -> dict[str, float]:
    """Calls, calls per second, percentiles in ms and CPU seconds; warm-up counts only as calls and CPU."""
    call = order.call
    over = OverGrpc if call.descriptors else OverHttp
    connections = min(order.concurrency, CONNECTIONS) if call.descriptors else order.concurrency
    callers: list[Caller] = [over(call, order.tokens, number) for number in range(connections)]
    requests = variants(call)
    set_up = cpu_seconds()
    clock = time.perf_counter
    start = clock() + order.warm_s
    end = start + order.seconds
    took: list[float] = []
    total = 0

    async def worker(invoke: Caller) -> None:
        nonlocal total
        while (begun := clock()) < end:
            body, path = random.choice(requests)
            total += 1
            await invoke(body.replace(STAMP, str(uuid.uuid4()).encode()), path)
            if begun >= start and (done := clock()) <= end:
                took.append(done - begun)

    async with asyncio.TaskGroup() as workers:
        for number in range(order.concurrency):
            workers.create_task(worker(callers[number % len(callers)]))
    if not took:
        raise RuntimeError(f"none of {total} calls began and ended in the {order.seconds} s that count")
    took.sort()
    times = {f"p{share}": percentile(took, share / 100) for share in (50, 95, 99)}
    return {
        "calls": total, "per_second": len(took) / order.seconds, **times, "generator_cpu": cpu_seconds() - set_up,
    }  # fmt: skip


def main() -> None:
    """Takes an Order as its argument and prints what `run` found."""
    asked = json.loads(sys.argv[1])
    order = Order(**{**asked, "call": Call(**asked["call"])})
    print(json.dumps(uvloop.run(run(order))))


if __name__ == "__main__":
    main()
