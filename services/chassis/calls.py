"""Rate, errors and duration of every rpc, on both sides (semantic conventions for RPC, those of gRPC).

A refusal is no error of the one who serves: it has a code and a reason, and no `error.type`. Whoever asked names every
answer but OK an error, and has the reason too.
"""

from collections.abc import Set as AbstractSet

from grpc import StatusCode

from services.chassis.metrics import Histogram

FAULTS = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)
"""What is an error of the one who serves."""
NOT_OK = frozenset(StatusCode) - {StatusCode.OK}
"""What is an error to the one who asked."""

_LABELS = ("rpc.system.name", "rpc.method", "rpc.response.status_code", "error.type", "shop.reason")

_served = Histogram("rpc.server.call.duration", "s", "How long the rpcs took that this process has served.", *_LABELS)
_asked = Histogram(
    "rpc.client.call.duration", "s", "How long the rpcs took that this process has called.", *_LABELS, "server.address"
)


def served(method: str, code: StatusCode, reason: str, seconds: float) -> None:
    """Counts a call of `/package.Service/Method` that has ended."""
    _served.record(seconds, *_labels(method, code, reason, FAULTS))


def asked(service: str, method: str, code: StatusCode, reason: str, seconds: float) -> None:
    """The same for a call of ours."""
    _asked.record(seconds, *_labels(method, code, reason, NOT_OK), service)


def _labels(
    method: str, code: StatusCode, reason: str, errors: AbstractSet[StatusCode]
) -> tuple[str, str, str, str, str]:
    return "grpc", method[1:], code.name, code.name if code in errors else "", reason
