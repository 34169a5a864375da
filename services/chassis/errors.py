"""Refusals to status codes and back: the only place that knows both."""

from dataclasses import dataclass

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError

from services import refusals

DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata in which gRPC carries a google.rpc.Status."""

CODE: dict[type[refusals.Refusal], StatusCode] = {
    refusals.Invalid: StatusCode.INVALID_ARGUMENT,
    refusals.NotFound: StatusCode.NOT_FOUND,
    refusals.AlreadyExists: StatusCode.ALREADY_EXISTS,
    refusals.Rejected: StatusCode.FAILED_PRECONDITION,
    refusals.Conflict: StatusCode.ABORTED,
    refusals.Unauthenticated: StatusCode.UNAUTHENTICATED,
    refusals.Forbidden: StatusCode.PERMISSION_DENIED,
    refusals.Unavailable: StatusCode.UNAVAILABLE,
}

_BY_NUMBER: dict[int, StatusCode] = {code.value[0]: code for code in StatusCode}

_VIOLATIONS_BYTES = 3000
"""Details travel as metadata, of which gRPC takes 8 KB in all: a hundred wrong lines must not become another error."""


@dataclass(frozen=True, slots=True)
class RpcRefusal:
    """What another service refused, and why. Match on `reason`, never on a bare code."""

    code: StatusCode
    reason: str
    metadata: dict[str, str]
    message: str


def to_status(refusal: refusals.Refusal, domain: str) -> status_pb2.Status:
    """Renders a refusal as AIP-193 asks: one ErrorInfo, RetryInfo where waiting helps, the fields that are wrong."""
    code = next(code for kind, code in CODE.items() if isinstance(refusal, kind))
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=refusal.reason, domain=domain, metadata=refusal.facts)]
    if isinstance(refusal, refusals.Unavailable):
        delay = duration_pb2.Duration()
        delay.FromTimedelta(refusal.retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(refusal, refusals.Invalid) and refusal.violations:
        details.append(_bad_request(refusal.violations))
    return status(code, refusal.message, *details)


def internal(domain: str, trace_id: str) -> status_pb2.Status:
    """What a caller hears of an error that nobody foresaw: where to look, and nothing of its text."""
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=domain, metadata={"trace_id": trace_id})
    return status(StatusCode.INTERNAL, "An internal error; the trace id tells more to those who run this.", info)


def deadline_exceeded(domain: str) -> status_pb2.Status:
    """The call took longer than it may."""
    info = error_details_pb2.ErrorInfo(reason="DEADLINE_EXCEEDED", domain=domain)
    return status(StatusCode.DEADLINE_EXCEEDED, "The deadline of the call has passed.", info)


def status(code: StatusCode, message: str, *details: Message) -> status_pb2.Status:
    """A google.rpc.Status of these details."""
    return status_pb2.Status(code=code.value[0], message=message, details=[_packed(detail) for detail in details])


def code_of(status: status_pb2.Status) -> StatusCode:
    """The code as gRPC's enum; a number that nobody knows is UNKNOWN."""
    return _BY_NUMBER.get(status.code, StatusCode.UNKNOWN)


def reason_of(status: status_pb2.Status) -> str:
    """The reason of its ErrorInfo, or nothing."""
    return info.reason if (info := _error_info(status)) else ""


def refusal_of(error: AioRpcError) -> RpcRefusal | None:
    """What a service answered. None: no service spoke (Envoy, gRPC itself), so only the code is known."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_refusal(status_pb2.Status.FromString(value))
            except DecodeError:
                return None
    return None


def status_refusal(status: status_pb2.Status) -> RpcRefusal | None:
    """The same for a status inside a message, such as one result of a batch. None: it has no ErrorInfo."""
    if (info := _error_info(status)) is None:
        return None
    return RpcRefusal(code_of(status), info.reason, dict(info.metadata), status.message)


def _error_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo | None:
    info = error_details_pb2.ErrorInfo()
    return info if any(detail.Unpack(info) for detail in status.details) else None


def _bad_request(violations: tuple[tuple[str, str], ...]) -> error_details_pb2.BadRequest:
    bad, size = error_details_pb2.BadRequest(), 0
    for field, description in violations:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field[:200], description=description[:500])
        size += violation.ByteSize()
        if size > _VIOLATIONS_BYTES:
            break
        bad.field_violations.append(violation)
    return bad


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
