"""OTLP over HTTP (OTLP specification, "OTLP/HTTP"): binary protobuf, plain or compressed."""

import asyncio
import zlib
from collections.abc import Callable, Iterable

from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from services.telemetry.receiver import MOST_BYTES, Signal

PROTOBUF = "application/x-protobuf"
BODY_S = 10.0
"""So long a request may take to come."""
_WINDOW = {"gzip": 31, "deflate": 15}
"""zlib's `wbits`, by content encoding."""


class Refused(Exception):
    """A request that nothing is taken of."""

    def __init__(self, http: int, code: int, reason: str, message: str) -> None:
        """`reason` is counted, `message` is told."""
        super().__init__(message)
        self.http, self.code, self.reason = http, code, reason


def http_application(signals: Iterable[Signal], refused: Callable[[str], None]) -> Starlette:
    """`refused` counts requests that are refused, by reason."""
    return Starlette(routes=[Route(signal.path, _endpoint(signal, refused), methods=["POST"]) for signal in signals])


def _endpoint(signal: Signal, refused: Callable[[str], None]) -> Callable[[Request], object]:
    async def export(request: Request) -> Response:
        try:
            return _answer(200, signal.take(_plain(request, await _body(request))).SerializeToString())
        except DecodeError:
            error = Refused(400, code_pb2.INVALID_ARGUMENT, "malformed", "this is no OTLP: it cannot be decoded")
        except Refused as refusal:
            error = refusal
        refused(error.reason)
        return _answer(error.http, status_pb2.Status(code=error.code, message=str(error)).SerializeToString())

    return export


async def _body(request: Request) -> bytes:
    """As it came. Raises Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != PROTOBUF:  # JSON as well: and no page of a browser can send this type without being asked first
        raise Refused(415, code_pb2.INVALID_ARGUMENT, "content type", f"only {PROTOBUF} is understood, not {kind!r}")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise Refused(408, code_pb2.DEADLINE_EXCEEDED, "slow", f"the request took longer than {BODY_S:g} s") from None
    except ClientDisconnect:
        raise Refused(400, code_pb2.INVALID_ARGUMENT, "cut off", "the request ends in the middle") from None
    return bytes(body)


def _plain(request: Request, body: bytes) -> bytes:
    """Decompressed. Raises Refused."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding == "identity":
        return body
    if coding not in _WINDOW:
        raise Refused(
            415, code_pb2.INVALID_ARGUMENT, "content encoding", f"gzip and deflate are understood, not {coding!r}"
        )
    inflating = zlib.decompressobj(_WINDOW[coding])
    try:
        plain = inflating.decompress(body, MOST_BYTES + 1)
    except zlib.error as error:
        raise Refused(400, code_pb2.INVALID_ARGUMENT, "malformed", f"the {coding} is broken: {error}") from None
    if len(plain) > MOST_BYTES:
        raise _too_large()
    if not inflating.eof:
        raise Refused(400, code_pb2.INVALID_ARGUMENT, "malformed", f"the {coding} ends in the middle")
    return plain


def _too_large() -> Refused:
    return Refused(413, code_pb2.RESOURCE_EXHAUSTED, "too large", f"more than {MOST_BYTES} bytes in one request")


def _answer(status: int, body: bytes) -> Response:
    return Response(body, status, media_type=PROTOBUF)
