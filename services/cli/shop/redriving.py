"""Dead letters over the edge, as oscar; and what is in one, from Notification's database as the role `audit`."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal
from uuid import UUID

import asyncpg
import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError
from shop.notification.v1 import notification_pb2 as pb
from shop.notification.v1.notification_pb2_grpc import NotificationServiceStub
from shop.order.v1 import events_pb2  # noqa: F401  makes the types of events known

from services.chassis.errors import refusal_of
from services.failure import Failure

type Verb = Literal["redrive", "discard"]

CALL_S = 10.0
PAGE = 100
LIMITED_S = 1.0
"""Until the edge takes calls again from somebody who made too many."""
NO_PROXY = [("grpc.enable_http_proxy", 0)]
"""gRPC would send even calls to 127.0.0.1 through the proxy that http_proxy names."""
MOST_OF_A_PAYLOAD = 256
"""Bytes that are shown of what cannot be read."""


class Refused(Exception):
    """One dead letter is as it was; the text says why."""


class Operator:
    """Somebody whose token is an operator's. All of it raises Failure when the shop takes no calls."""

    def __init__(self, edge: str, channel: grpc.aio.Channel, token: str) -> None:
        self._edge, self._stub = edge, NotificationServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def waiting(self) -> list[pb.DeadLetter]:
        """All that wait, the newest first."""
        letters, request = list[pb.DeadLetter](), pb.ListDeadLettersRequest(page_size=PAGE)
        while True:
            page = await self._called(self._stub.ListDeadLetters, request)
            letters += page.dead_letters
            if not page.next_page_token:
                return letters
            request.page_token = page.next_page_token

    async def end(self, verb: Verb, name: str) -> pb.DeadLetter:
        """What was redriven, or discarded. Raises Refused."""
        if verb == "redrive":
            answer = await self._called(self._stub.RedriveDeadLetter, pb.RedriveDeadLetterRequest(name=name))
        else:
            answer = await self._called(self._stub.DiscardDeadLetter, pb.DiscardDeadLetterRequest(name=name))
        letter: pb.DeadLetter = answer.dead_letter
        return letter

    async def _called(self, method: Any, request: object) -> Any:  # noqa: ANN401  any rpc
        while True:
            try:
                return await method(request, metadata=self._metadata, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise self._told(error) from None
            await asyncio.sleep(LIMITED_S)

    def _told(self, error: grpc.aio.AioRpcError) -> Exception:
        refusal = refusal_of(error)
        match refusal and refusal.reason:
            case "DEAD_LETTER_NOT_FOUND":
                return Refused("no such dead letter waits: it has come to another end, or never was")
            case "EVENT_GARBLED" if refusal:
                return Refused(f"its event cannot be understood even now: {refusal.metadata.get('why')}")
        return Failure(
            f"no use of Notification behind the edge at {self._edge} ({error.code().name}: {error.details()}): "
            "see `shopmesh status` and `shopmesh mesh`"
        )


@asynccontextmanager
async def operator(edge: str, token: str) -> AsyncIterator[Operator]:
    """Calls go to `edge`, host:port."""
    async with grpc.aio.insecure_channel(edge, options=NO_PROXY) as channel:
        yield Operator(edge, channel, token)


def name_of(text: str) -> str:
    """Of `deadLetters/<id>` or the id alone. Raises Failure for what is none."""
    try:
        return f"deadLetters/{UUID(text.removeprefix('deadLetters/'))}"
    except ValueError:
        raise Failure(f"{printable(text)} is no dead letter: `shopmesh deadletters list` shows their names") from None


def fields(letter: pb.DeadLetter) -> dict[str, Any]:
    """For programs."""
    return json_format.MessageToDict(
        letter, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def listed(letters: Sequence[pb.DeadLetter]) -> str:
    """Two lines for each: which it is, and why."""
    return "\n".join(
        f"{letter.name}  {letter.create_time.ToDatetime():%Y-%m-%d %H:%M:%S}  {printable(letter.event_type):28}  "
        f"{letter.order or 'event ' + printable(letter.event_id)}\n"
        f"    after {letter.attempts} attempt(s): {printable(letter.reason)}"
        for letter in letters
    )


async def content(database: str, name: str) -> dict[str, Any]:
    """All that is kept of one, also of one that has come to an end. Raises Failure."""
    try:
        connection = await asyncpg.connect(database, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise Failure(f"the database of notification does not answer ({error}): see `shopmesh status`") from None
    try:
        row = await connection.fetchrow(
            "select dead.*, kind, recipient, subject, notification.state as mail_state, possible_duplicates"
            " from audit_dead_letters dead left join audit_notifications notification using (notification_id)"
            " where dead_letter_id = $1",
            UUID(name.removeprefix("deadLetters/")),
        )
    finally:
        await connection.close()
    if row is None:
        raise Failure(f"there is no dead letter {name}: `shopmesh deadletters list` shows those that wait")
    told = {
        "name": name,
        "state": row["state"],
        "event_type": row["event_type"],
        "event_id": row["event_id"],
        "order": f"orders/{row['order_id']}" if row["order_id"] else "",
        "reason": row["reason"],
        "attempts": row["attempts"],
        "create_time": row["create_time"].isoformat(),
    }
    if row["notification_id"]:
        mail = {key: row[key] for key in ("kind", "recipient", "subject", "possible_duplicates")}
        return {**told, "mail": {**mail, "state": row["mail_state"]}}
    return {**told, "headers": json.loads(row["headers"]), "payload": read(row["event_type"], row["payload"])}


def read(event_type: str, payload: bytes) -> object:
    """An event as far as it can be read: its fields, or the beginning of its bytes."""
    try:
        message = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(event_type))
        return json_format.MessageToDict(message.FromString(payload), preserving_proto_field_name=True)
    except (KeyError, DecodeError, ValueError):
        more = f" ... of {len(payload)} bytes" if len(payload) > MOST_OF_A_PAYLOAD else ""
        return f"{payload[:MOST_OF_A_PAYLOAD].hex(' ')}{more}"


def shown(told: dict[str, Any]) -> str:
    """The content for people: names aligned, what has parts as indented JSON."""
    return "\n".join(f"{key:12} {_written(value)}" for key, value in told.items())


def _written(value: object) -> str:
    if not isinstance(value, dict):
        return printable(str(value))
    return "\n".join(map(printable, json.dumps(value, indent=2, ensure_ascii=False).split("\n")))


def printable(text: str) -> str:
    """What came from outside, on one line, without a character that a terminal would obey or nobody would see."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
