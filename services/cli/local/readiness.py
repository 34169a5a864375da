"""Questions that tell whether a process takes calls yet. Plain sockets and HTTP: gRPC stays out of the supervisor."""

import asyncio
import base64
import json
import struct
from datetime import datetime
from urllib.parse import quote

from services.cli.local.process import Ready
from services.cli.mesh.envoy_admin import hosts
from services.cli.settings import ENDPOINTS, HOST

ANSWER_S = 2.0
"""A process that takes longer to answer one question is asked again."""

REFUSALS = (OSError, TimeoutError, IndexError, KeyError, ValueError)


async def http(port: int, path: str, body: bytes = b"", method: str = "GET", *, host: str = HOST) -> tuple[int, bytes]:
    """One request (a POST of JSON when there is a body), answered with status and body."""
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            # Envoy refuses HTTP/1.0.
            head = f"POST {path} HTTP/1.0" if body else f"{method} {path} HTTP/1.1"
            head += f"\r\nHost: {host}:{port}\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
            writer.write(head.encode() + b"\r\n" + body)
            answer = await reader.read()
        finally:
            writer.close()
    head_of_answer, _, rest = answer.partition(b"\r\n\r\n")
    status = int(head_of_answer.split(b" ", 2)[1])
    return status, _joined(rest) if b"transfer-encoding: chunked" in head_of_answer.lower() else rest


def _joined(chunks: bytes) -> bytes:
    """A body that came in chunks, each behind its length in hexadecimal digits (RFC 9112, 7.1)."""
    body = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        body, chunks = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


async def _connects(port: int) -> bool:
    try:
        async with asyncio.timeout(ANSWER_S):
            _, writer = await asyncio.open_connection(HOST, port)
    except REFUSALS:
        return False
    writer.close()
    return True


def accepts(*ports: int) -> Ready:
    """Every port accepts connections; the first is the address shown."""

    async def ask(_: float) -> str | None:
        for port in ports:
            if not await _connects(port):
                return None
        return f"{HOST}:{ports[0]}"

    return ask


def takes_sessions(port: int, user: str) -> Ready:
    """PostgreSQL lets `user` in. While it starts or recovers it accepts connections and refuses sessions."""
    words = f"user\0{user}\0database\0postgres\0\0".encode()
    startup = struct.pack("!ii", 8 + len(words), 196608) + words  # protocol 3.0, StartupMessage

    async def ask(_: float) -> str | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(startup)
                kind = await reader.read(1)
                writer.write(b"X\0\0\0\4")  # Terminate
                writer.close()
        except REFUSALS:
            return None
        return f"{HOST}:{port}" if kind == b"R" else None

    return ask


def answers(port: int, path: str, address: str = "") -> Ready:
    """GET `path` is 200."""

    async def ask(_: float) -> str | None:
        try:
            status, _body = await http(port, path)
        except REFUSALS:
            return None
        return (address or f"{HOST}:{port}") if status == 200 else None

    return ask


LISTENERS = 2
"""Of an Envoy: edge and mesh."""


def listens(admin: int, address: str) -> Ready:
    """An Envoy takes calls: itself, whoever else has its ports. `admin` is its admin port."""

    async def ask(_: float) -> str | None:
        counted = await counters(admin, "listener_manager.workers_started", "listener_manager.total_listeners_active")
        return address if counted == [1, LISTENERS] else None

    return ask


async def takes_no_more(admin: int) -> bool:
    """An Envoy that drains has stopped to listen, and has no caller left; also when it does not answer any more."""
    callers = [f"http.{listener}.downstream_cx_active" for listener in ("edge", "mesh")]
    return await counters(admin, "listener_manager.listener_stopped", *callers) in ([LISTENERS, 0, 0], [])


async def counters(admin: int, *names: str) -> list[int]:
    """Envoy's counters; 0 for one that it does not have yet, none at all when it does not answer."""
    pattern = "|".join(name.replace(".", r"\.") for name in names)
    try:
        _, answer = await http(admin, f"/stats?format=json&filter={quote(f'^({pattern})$')}")
        has = {stat["name"]: int(stat["value"]) for stat in json.loads(answer)["stats"] if "name" in stat}
    except REFUSALS:
        return []
    return [has.get(name, 0) for name in names]


def registered(etcd_port: int, service: str, instance: str) -> Ready:
    """The instance has a record with state READY in etcd, asked through etcd's JSON gateway.

    What an earlier process of that name left there does not count.
    """
    key = base64.b64encode(f"{ENDPOINTS}{service}/{instance}".encode()).decode()
    question = json.dumps({"key": key}).encode()

    async def ask(started: float) -> str | None:
        try:
            _, answer = await http(etcd_port, "/v3/kv/range", question)
            found = json.loads(answer).get("kvs", [])
            record = json.loads(base64.b64decode(found[0]["value"])) if found else {}
        except REFUSALS:
            return None
        ours = "start_time" not in record or datetime.fromisoformat(record["start_time"]).timestamp() > started - 1
        return str(record["address"]) if record.get("state") == "STATE_READY" and ours else None

    return ask


async def sends_calls(envoy_admin: int, service: str, address: str) -> bool:
    """Envoy has the instance of the service at `address` and finds it well."""
    try:
        _, answer = await http(envoy_admin, "/clusters?format=json")
        return any(host.is_well for host in hosts(json.loads(answer)).get(service, []) if host.address == address)
    except REFUSALS:
        return False
