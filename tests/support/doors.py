"""The doors of the edge, all called alike: gRPC, gRPC-web in both framings, and REST.

REST requests are made from the contract alone: the path, the query and the body that google.api.http describes.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, unquote

import grpc
import httpx
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tests.support.contract import Metadata, Rpc
from tests.support.waiting import DEADLINE_S

HTTP = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
}
"""What google/rpc/code.proto says of each code that the shop answers with."""

OR = {grpc.StatusCode.RESOURCE_EXHAUSTED: (413, 431), grpc.StatusCode.UNAVAILABLE: (502, 504)}
"""Envoy says more exactly what was too large, or who was away."""

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_VARIABLE = re.compile(r"\{([a-z_.]+)(?:=([^}]+))?\}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller can learn of how a call ended."""

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    domain: str = ""
    facts: dict[str, str] = field(default_factory=dict[str, str])
    violations: tuple[tuple[str, str], ...] = ()
    retry_after_s: float | None = None
    response: Message | None = None


class Door(Protocol):
    """One way in. Of a stream the first message is the answer, and its end is waited for."""

    async def call(self, rpc: Rpc, request: Message, metadata: Metadata) -> Answer:
        """Raises AssertionError for what is no answer of this protocol."""
        ...


class Grpc:
    """As stubs and grpcurl call."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def call(self, rpc: Rpc, request: Message, metadata: Metadata) -> Answer:
        try:
            answer = await rpc.call(self._channel, request.SerializeToString(), metadata, DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
            assert isinstance(details, bytes)
            return _refused(error.code(), error.details() or "", details)
        return Answer(grpc.StatusCode.OK, response=rpc.response.FromString(answer))


class GrpcWeb:
    """As a page calls: binary frames, or the same in base64."""

    def __init__(self, http: httpx.AsyncClient, *, text: bool) -> None:
        self._http, self._text = http, text

    async def call(self, rpc: Rpc, request: Message, metadata: Metadata) -> Answer:
        kind = "application/grpc-web-text" if self._text else "application/grpc-web+proto"
        headers = {"content-type": kind, "accept": kind, "x-grpc-web": "1", **dict(metadata)}
        sent = _frame(request.SerializeToString())
        answer = await self._http.post(rpc.path, content=b64encode(sent) if self._text else sent, headers=headers)
        return self._read(rpc, answer)

    def _read(self, rpc: Rpc, answer: httpx.Response) -> Answer:
        # Each piece of the text may be padded on its own.
        quads = re.findall(b"....", answer.content) if self._text else []
        body = b"".join(map(b64decode, quads)) if self._text else answer.content
        messages, trailers = _frames(body)
        # With nothing but a status, it stands in the headers.
        said = trailers or {name.lower(): value for name, value in answer.headers.items()}
        code = _CODES[int(said["grpc-status"])]
        details = said.get("grpc-status-details-bin", "")
        # What Envoy refuses by itself keeps an HTTP status, for clients that read that first.
        assert answer.status_code == 200 or (not details and _fits(code, answer.status_code))
        if code is grpc.StatusCode.OK:
            return Answer(code, response=rpc.response.FromString(messages[0]))
        assert not messages
        return _refused(code, unquote(said.get("grpc-message", "")), b64decode(details + "=" * (-len(details) % 4)))


class Rest:
    """As curl calls."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def call(self, rpc: Rpc, request: Message, metadata: Metadata) -> Answer:
        verb, path, query, body = transcoded(rpc, request)
        answer = await self._http.request(verb, path, params=tuple(query), json=body, headers=dict(metadata))
        assert answer.headers["content-type"] == "application/json", answer.text
        if answer.status_code == 200:
            content = answer.json()
            response = json_format.ParseDict(content[0] if rpc.streaming else content, rpc.response())
            return Answer(grpc.StatusCode.OK, response=response)
        return read_json(answer)


type Doors = Mapping[str, Door]
"""By name."""


def doors_of(channel: grpc.aio.Channel, http: httpx.AsyncClient) -> Doors:
    """All doors of one edge."""
    return {
        "gRPC": Grpc(channel),
        "gRPC-web": GrpcWeb(http, text=False),
        "gRPC-web, text": GrpcWeb(http, text=True),
        "REST": Rest(http),
    }


async def ask(doors: Doors, rpc: Rpc, request: Message, metadata: Metadata) -> dict[str, Answer]:
    """By door; without REST when no path can say the request."""

    async def one(name: str) -> tuple[str, Answer] | None:
        try:
            return name, await doors[name].call(rpc, request, metadata)
        except Unroutable:
            return None

    return dict([answered for name in doors if (answered := await one(name))])


def same_at_all(answers: Mapping[str, Answer]) -> Answer:
    """The one answer of all doors."""
    first = answers["gRPC"]
    assert answers == dict.fromkeys(answers, first)
    return first


def read_json(answer: httpx.Response) -> Answer:
    """A refusal over REST, whose HTTP status fits to the code in it."""
    content = answer.json()
    assert set(content) == {"code", "message", "details"}, content
    status = json_format.ParseDict(content, status_pb2.Status())
    code = _CODES[status.code]
    assert _fits(code, answer.status_code), (code, answer.status_code)
    return _refused(code, status.message, status.SerializeToString() if status.details else b"")


def _fits(code: grpc.StatusCode, status: int) -> bool:
    return status in (HTTP[code], *OR.get(code, ()))


# --- google.api.http


class Unroutable(ValueError):
    """No path of this rpc can say this request."""


def transcoded(rpc: Rpc, request: Message) -> tuple[str, str, list[tuple[str, str]], object]:
    """The verb, path, query and JSON body of a request. Raises Unroutable."""
    verb = rpc.http.WhichOneof("pattern")
    assert verb is not None
    content = json_format.MessageToDict(request, preserving_proto_field_name=True)

    def filled(variable: re.Match[str]) -> str:
        value = _taken(content, variable[1].split("."))
        allowed = re.escape(variable[2] or "*").replace(r"\*", "[^/]+")
        if not re.fullmatch(allowed, value):
            raise Unroutable(f"{value!r} is no {variable[2]}")
        return quote(value, safe="/")

    path = _VARIABLE.sub(filled, getattr(rpc.http, verb))
    if rpc.http.body == "*":
        return verb.upper(), path, [], content
    assert not rpc.http.body
    return verb.upper(), path, list(_query(content)), None


def _taken(content: dict[str, Any], names: Sequence[str]) -> str:
    """Takes a field out: what stands in the path stands nowhere else."""
    *above, last = names
    for name in above:
        content = content.get(name, {})
    return str(content.pop(last, ""))


def _query(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _query(value, f"{prefix}{name}.")
            continue
        for each in value if isinstance(value, list) else [value]:
            yield prefix + name, str(each).lower() if isinstance(each, bool) else str(each)


# --- gRPC-web's frames (PROTOCOL-WEB.md)


def _frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def _frames(body: bytes) -> tuple[list[bytes], dict[str, str]]:
    """Messages, and the trailers behind them."""
    messages, trailers = list[bytes](), dict[str, str]()
    while body:
        kind, length = body[0], int.from_bytes(body[1:5], "big")
        content, body = body[5 : 5 + length], body[5 + length :]
        assert len(content) == length
        if kind & 0x80:
            lines = content.decode().strip().split("\r\n")
            trailers |= {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        else:
            messages.append(content)
    return messages, trailers


def _refused(code: grpc.StatusCode, message: str, packed: bytes) -> Answer:
    status = status_pb2.Status.FromString(packed)
    if packed:
        assert (status.code, status.message) == (code.value[0], message), "details say the same as the status"
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    waits = False
    for detail in status.details:
        known = detail.Unpack(info) or detail.Unpack(bad) or (waits := detail.Unpack(retry))
        assert known, detail.type_url
    return Answer(
        code,
        message,
        info.reason,
        info.domain,
        dict(info.metadata),
        tuple((violation.field, violation.description) for violation in bad.field_violations),
        retry.retry_delay.ToTimedelta().total_seconds() if waits else None,
    )
