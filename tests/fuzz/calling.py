"""Calls over two doors, and what every answer of the shop must be like."""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import httpx
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from services.cli.identity import access_token
from services.cli.local import keycloak
from services.cli.places import token_url
from services.controlplane.contract import Rpc
from tests.fuzz.contracts import RPCS, Called
from tests.fuzz.known import Known
from tests.fuzz.requests import Requests
from tests.support.shop import Shop

EDGE, PAST_THE_EDGE = "edge", "past the edge"

DEADLINE_S = 30.0
"""Far more than any call may take: to reach it is a fault."""
STREAM_S = 0.5
"""How long a stream that says nothing is listened to."""
TOKENS_S = 1_200.0

USERS = ("ann", "bob", "carol", "oscar")
ROLES = {
    "customer": ("ann", "bob"),
    "catalog-manager": ("carol",),
    "inventory-manager": ("carol",),
    "operator": ("oscar",),
}

FAULTS = {
    StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.DATA_LOSS, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED,
}  # fmt: skip
ENVOYS = {StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED}
"""What the edge refuses by itself, without an ErrorInfo."""

INNER = re.compile(
    r"traceback|asyncpg|postgres|psycopg|sqlstate|\b(select|insert|update|delete)\b.*\b(from|into|set|where)\b"
    r"|\b(null value|relation|column|constraint|syntax error|duplicate key|out of range|encoding)\b.*[\"']"
    r"|\.py\b|site-packages|/(home|root|usr|work|tmp|var)/|\bline \d+\b|object at 0x|<class|\bNoneType\b"
    r"|\b[A-Z]\w+(Error|Exception)\b|\bException\b|grpc_status|pb2|services\.",
    re.IGNORECASE,
)
"""Words of the inside: no answer has them."""


@dataclass(frozen=True, slots=True)
class Answer:
    code: StatusCode
    message: str = ""
    status: status_pb2.Status | None = None
    """Of the trailers."""
    body: bytes = b""


@dataclass(repr=False)
class Outside:
    """Everybody who calls the shop, and what they heard."""

    shop: Shop
    known: Known = field(default_factory=Known)
    tally: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By rpc and door: which answers, how often."""
    _channels: dict[str, grpc.Channel] = field(default_factory=dict)
    _tokens: dict[str, tuple[float, str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.since = datetime.now(UTC)
        self.requests = Requests(self.known)
        self.processes = {name: part["pid"] for name, part in self.shop.parts().items()}
        self._instances = {name: str(part["address"]) for name, part in self.shop.parts().items()}

    def say(
        self, called: Called, door: str, caller: str | None, request: bytes, metadata: Sequence[tuple[str, Any]] = ()
    ) -> Message | None:
        """What was answered, None for a refusal. Raises AssertionError for an answer that no caller should get."""
        answer = self.call(called.rpc, door, caller, request, metadata)
        self.tally[f"{called} {door}"][reason_of(answer)] += 1
        message = judge(called, door, answer)
        if message is not None:
            self.known.hear(message)
        return message

    def call(
        self, rpc: Rpc, door: str, caller: str | None, request: bytes, metadata: Sequence[tuple[str, Any]] = ()
    ) -> Answer:
        """Caller: a demo user, a service, or nobody. Of a stream, the first message."""
        channel = self._channel(self.shop.edge if door == EDGE else self._instances[rpc.service])
        sent = [*metadata, *([("authorization", f"Bearer {self.token(caller)}")] if caller else [])]
        make = channel.unary_stream if rpc.streaming else channel.unary_unary
        call: Any = make(rpc.path, request_serializer=None, response_deserializer=None)
        try:
            if not rpc.streaming:
                return Answer(StatusCode.OK, body=call(request, metadata=sent, timeout=DEADLINE_S))
            messages = call(request, metadata=sent, timeout=STREAM_S)
            body = next(messages, b"")
            messages.cancel()
            return Answer(StatusCode.OK, body=body)
        except grpc.RpcError as error:
            answer = _refused(error)
        if rpc.streaming and answer.code is StatusCode.DEADLINE_EXCEEDED:
            return Answer(StatusCode.OK)
        return answer

    def token(self, caller: str) -> str:
        made, token = self._tokens.get(caller, (float("-inf"), ""))
        if time.monotonic() - made > TOKENS_S:
            token = access_token(token_url(self.issuer), caller) if caller in USERS else self._of_service(caller)
            self._tokens[caller] = time.monotonic(), token
        return token

    @property
    def issuer(self) -> str:
        return f"http://localhost:{self.shop.ports['keycloak']}/realms/shop"

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def _of_service(self, service: str) -> str:
        asked = {"grant_type": "client_credentials", "client_id": service, "client_secret": keycloak.secret(service)}
        with httpx.Client(trust_env=False, timeout=DEADLINE_S) as http:
            answer = http.post(token_url(self.issuer), data=asked)
        return str(answer.raise_for_status().json()["access_token"])

    def _channel(self, address: str) -> grpc.Channel:
        if address not in self._channels:
            self._channels[address] = grpc.insecure_channel(address)
        return self._channels[address]


def callers(rpc: Rpc) -> tuple[str | None, ...]:
    """Who may."""
    if rpc.clients:
        return rpc.clients
    if rpc.public:
        return None, "ann"
    return tuple(user for role in rpc.roles for user in ROLES[role])


def doors(rpc: Rpc) -> tuple[str, ...]:
    return (EDGE, PAST_THE_EDGE) if rpc.at_edge else (PAST_THE_EDGE,)


WAYS = tuple((called, door) for called in RPCS for door in doors(called.rpc))
"""Every rpc, over every door that leads to it."""


def judge(called: Called, door: str, answer: Answer) -> Message | None:
    """What was answered, None for a refusal. Raises AssertionError when the shop may not answer so."""
    if answer.code is not StatusCode.OK:
        _judge_refusal(called, door, answer)
        return None
    message = called.response.FromString(answer.body)
    for status in _statuses(message):
        _judge_status(called, status)
    return message


def _judge_refusal(called: Called, door: str, answer: Answer) -> None:
    assert answer.code not in FAULTS, f"{answer.code.name}: {answer.message}"
    assert not INNER.search(answer.message), answer.message
    if answer.status is None:
        by_envoy = door == EDGE and answer.code in ENVOYS
        # gRPC itself: metadata or a message is too large.
        assert by_envoy or answer.code is StatusCode.RESOURCE_EXHAUSTED, f"no ErrorInfo: {answer}"
        return
    assert answer.status.code == answer.code.value[0]
    assert answer.status.message == answer.message
    _judge_status(called, answer.status)


def _judge_status(called: Called, status: status_pb2.Status) -> None:
    info = error_details_pb2.ErrorInfo()
    assert [detail.Unpack(info) for detail in status.details].count(True) == 1, f"not one ErrorInfo: {status}"
    assert info.domain == "shop"
    assert f"{_code_of(status)}/{info.reason}" in called.refusals, f"no comment names this refusal: {info}"
    assert not INNER.search(status.message), status.message
    for text in _texts(status):
        assert not INNER.search(text), text


def reason_of(answer: Answer) -> str:
    """`OK`, or code and reason as comments have it."""
    info = error_details_pb2.ErrorInfo()
    if answer.status is None or not any(detail.Unpack(info) for detail in answer.status.details):
        return answer.code.name
    return f"{answer.code.name}/{info.reason}"


def _refused(error: Any) -> Answer:
    trailers = dict(error.trailing_metadata() or ())
    packed = trailers.get("grpc-status-details-bin")
    status = status_pb2.Status.FromString(packed) if packed else None
    return Answer(error.code(), error.details() or "", status)


def _code_of(status: status_pb2.Status) -> str:
    return next(code.name for code in StatusCode if code.value[0] == status.code)


def _statuses(message: Message) -> Iterator[status_pb2.Status]:
    """Those inside an answer: results of a batch."""
    if isinstance(message, status_pb2.Status):
        yield message
        return
    for part_of, value in message.ListFields():
        if part_of.message_type is not None and not part_of.message_type.GetOptions().map_entry:
            for part in value if part_of.is_repeated else [value]:
                yield from _statuses(part)


def _texts(status: status_pb2.Status) -> Iterator[str]:
    """What the details say in words of their own; facts repeat what the caller has sent."""
    bad = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(bad):
            yield from (violation.description for violation in bad.field_violations)
