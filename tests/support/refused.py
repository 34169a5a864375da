"""What a refused caller was told."""

from collections.abc import Awaitable
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2, status_pb2


@dataclass(frozen=True, slots=True)
class Refused:
    """Code of the answer and, where it carries an ErrorInfo, its reason and facts."""

    code: grpc.StatusCode
    reason: str = ""
    facts: dict[str, str] = field(default_factory=dict[str, str])


def refused(error: grpc.aio.AioRpcError) -> Refused:
    status = _status(error)
    info = error_details_pb2.ErrorInfo()
    if not any(detail.Unpack(info) for detail in status.details):
        return Refused(error.code())
    assert status.code == error.code().value[0], "the status in the trailers says the same as the call"
    return Refused(error.code(), info.reason, dict(info.metadata))


def violations(error: grpc.aio.AioRpcError) -> list[tuple[str, str]]:
    """The fields that are wrong, and why."""
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in _status(error).details)
    return [(violation.field, violation.description) for violation in bad.field_violations]


async def outcome(call: Awaitable[object]) -> Refused:
    """How a call ended; code OK when it was answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return refused(error)
    return Refused(grpc.StatusCode.OK)


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    packed = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
    return status_pb2.Status.FromString(packed if isinstance(packed, bytes) else packed.encode())
