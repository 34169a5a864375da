"""Rate, errors and duration of every rpc, on both sides (semantic conventions for RPC, those of gRPC).

A refusal is no error of the one who serves: it has a code and a reason, and no `error.type`. Whoever asked names every
answer but OK an error, and has the reason too.
"""

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
PLANNED = frozenset({"STREAM_MOVED"})
"""Reasons of what ends because its time is over: UNAVAILABLE, so that callers come again, but nothing went wrong."""

# Metrics are declared at import, before a process says whose it is: this name is fixed, and equals that of the spans
# (tracing.reason) in every process of ours, whose domain is `shop`.
_LABELS = ("rpc.system.name", "rpc.method", "rpc.response.status_code", "error.type", "shop.reason")

_served = Histogram("rpc.server.call.duration", "s", "How long the rpcs took that this process has served.", *_LABELS)
_asked = Histogram(
    "rpc.client.call.duration", "s", "How long the rpcs took that this process has called.", *_LABELS, "server.address"
)


def is_fault(code: StatusCode, reason: str) -> bool:
    """Whether an answer is an error of the one who serves."""
    return code in FAULTS and reason not in PLANNED


def served(method: str, code: StatusCode, reason: str, seconds: float) -> None:
    """Counts a call of `/package.Service/Method` that has ended."""
    _served.record(seconds, *_labels(method, code, reason, error=is_fault(code, reason)))


def asked(service: str, method: str, code: StatusCode, reason: str, seconds: float) -> None:
    """The same for a call of ours."""
    _asked.record(seconds, *_labels(method, code, reason, error=code is not StatusCode.OK), service)


def _labels(method: str, code: StatusCode, reason: str, *, error: bool) -> tuple[str, str, str, str, str]:
    return "grpc", method[1:], code.name, code.name if error else "", reason
