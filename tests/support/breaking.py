"""An instance that is well for whoever asks its health, and breaks every call off."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.support.registered import registered

INTERNAL_ERROR, REFUSED_STREAM = 2, 7
"""RFC 9113, 7: the call may have been carried out; it surely was not."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _RST_STREAM, _SETTINGS, _PING = 1, 3, 4, 6
_ACK = 1
# `/grpc.health.v1.Health/Check` in the Huffman code of HPACK, RFC 7541, but for the last bits.
_HEALTH_CHECK = bytes.fromhex("626b2b22f394742675fb857c651d099d8bd3949d")

type Frame = tuple[int, int, int, bytes]
"""Kind, flags, stream and payload."""


class Breaking:
    """Counts what it breaks off. Envoy's health checks have connections of their own."""

    def __init__(self, code: int, after_s: float) -> None:
        self.calls = 0
        self._code, self._after_s = code, after_s
        self._connections = list[asyncio.StreamWriter]()

    async def run(self, healthy: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; `healthy` is the port of a server that answers health checks."""
        self._connections.append(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            before, (kind, flags, stream, payload) = await self._first_request(reader)
            if _HEALTH_CHECK in payload:
                there_reader, there_writer = await asyncio.open_connection("127.0.0.1", healthy)
                there_writer.write(before)
                await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
                return
            writer.write(_frame(_SETTINGS) + _frame(_SETTINGS, _ACK))
            while True:
                if kind == _HEADERS:
                    self.calls += 1
                    broken = _frame(_RST_STREAM, stream=stream, payload=struct.pack(">I", self._code))
                    asyncio.get_running_loop().call_later(self._after_s, _send, writer, broken)
                elif kind == _PING and not flags & _ACK:
                    writer.write(_frame(_PING, _ACK, payload=payload))
                _, (kind, flags, stream, payload) = await _read(reader)
        writer.close()

    def end(self) -> None:
        """Hangs up."""
        for connection in self._connections:
            connection.close()

    async def _first_request(self, reader: asyncio.StreamReader) -> tuple[bytes, Frame]:
        """All that came up to it, and its frame."""
        all_read = await reader.readexactly(len(_PREFACE))
        while True:
            read, frame = await _read(reader)
            all_read += read
            if frame[0] == _HEADERS:
                return all_read, frame


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, Frame]:
    head = await reader.readexactly(9)
    high, low, kind, flags, stream = struct.unpack(">BHBBI", head)
    payload = await reader.readexactly(high << 16 | low)
    return head + payload, (kind, flags, stream, payload)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    if not writer.is_closing():
        writer.write(frame)


def _frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">BHBBI", 0, len(payload), kind, flags, stream) + payload


@asynccontextmanager
async def breaking(
    etcd_endpoint: str, service: str, instance: str, code: int = INTERNAL_ERROR, after_s: float = 0
) -> AsyncIterator[Breaking]:
    """Registered as a real one. Each call is reset with `code`, after so many seconds."""
    server = grpc.aio.server()
    checked = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checked, server)
    await checked.set("", health_pb2.HealthCheckResponse.SERVING)
    healthy = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    it = Breaking(code, after_s)
    listening = await asyncio.start_server(lambda *ends: it.run(healthy, *ends), "127.0.0.1", 0)
    address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        async with registered(etcd_endpoint, service, instance, address):
            yield it
    finally:
        listening.close()
        it.end()
        await server.stop(None)
