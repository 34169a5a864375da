"""Log lines on their way to a collector elsewhere, by OTLP over gRPC. What it does not take waits in the files."""

import time
from collections.abc import Sequence
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

from services.chassis import collector, logs
from services.chassis.otlp_lines import encoded
from services.chassis.patience import Seldom
from services.log_files import Line
from services.telemetry.tail import Taker

EXPORT_S = 2.0
PAUSE_S = 30.0
"""Longest pause before a collector that does not answer is asked again."""

_RETRYABLE = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""OTLP, "Failures": everything else would be refused again."""
_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]

log = logs.get()


class Forward:
    """Sends lines to the collector at `endpoint` (http://host:port or https://), and has `marks` keep the mark.

    A line may arrive twice: when this process is killed between the two.
    """

    def __init__(self, endpoint: str, marks: Taker) -> None:
        self._endpoint, self._marks = endpoint, marks
        self._channel = collector.channel(endpoint, _OPTIONS)
        self._export: Any = LogsServiceStub(self._channel).Export  # type: ignore[no-untyped-call]
        self._failures, self._again, self._seldom = 0, 0.0, Seldom()
        self._dropped = 0

    @property
    def has_room(self) -> bool:
        """Not while it waits for the collector."""
        return time.monotonic() >= self._again

    def put_lines(self, lines: Sequence[Line], mark: tuple[str, int, int]) -> bool:
        """Returns when the collector has them, or when it does not take them now: after EXPORT_S at the latest."""
        if lines:
            try:
                answer = self._export(encoded(lines, time.time_ns()), timeout=EXPORT_S)
            except grpc.RpcError as error:
                code = error.code()
                if code in _RETRYABLE:
                    self._again = time.monotonic() + min(PAUSE_S, 2.0**self._failures)
                    self._failures = min(self._failures + 1, 10)
                    self._tell("log lines wait for the collector", code=code.name)
                    return False
                self._refused(len(lines), code.name)
            else:
                self._refused(answer.partial_success.rejected_log_records, answer.partial_success.error_message)
        self._failures = 0
        return self._marks.put_lines([], mark)

    def close(self) -> None:
        """From any thread; what is on its way is given up, and sent again after the next start."""
        self._channel.close()

    def _refused(self, count: int, why: str) -> None:
        if count:
            self._dropped += count
            self._tell("the collector refuses log lines", why=why, dropped=self._dropped)

    def _tell(self, message: str, **facts: object) -> None:
        """One line a minute: it comes back as a line to be sent."""
        if self._seldom.may():
            log.warning(message, endpoint=self._endpoint, **facts)
