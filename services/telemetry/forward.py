"""Log lines on their way to a collector elsewhere, by OTLP over gRPC. What it does not take waits in the files."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from services.chassis import collector, logs
from services.chassis.patience import Seldom
from services.log_files import Line
from services.telemetry.model import Value
from services.telemetry.otlp import ORDER
from services.telemetry.tail import Taker

EXPORT_S = 2.0
PAUSE_S = 30.0
"""Longest pause before a collector that does not answer is asked again."""

_SEVERITY = {"debug": (5, "DEBUG"), "info": (9, "INFO"), "warning": (13, "WARN"), "error": (17, "ERROR")}
"""Of OTLP's log data model: the first of each range."""
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


def encoded(lines: Iterable[Line], arrival_ns: int) -> ExportLogsServiceRequest:
    """One resource for each instance among them."""
    request = ExportLogsServiceRequest()
    of: dict[tuple[str, str], Any] = {}
    for line in lines:
        if (records := of.get((line.service, line.instance))) is None:
            about = {"service.name": line.service, "service.instance.id": line.instance}
            source = request.resource_logs.add(resource=Resource(attributes=_attributes(about)))
            records = of[line.service, line.instance] = source.scope_logs.add().log_records
        records.append(_record(line, arrival_ns))
    return request


def _record(line: Line, arrival_ns: int) -> LogRecord:
    number, text = _SEVERITY[line.level]
    return LogRecord(
        time_unix_nano=max(line.time_ns, 0),
        observed_time_unix_nano=arrival_ns,
        severity_number=number,  # type: ignore[arg-type]  # an enum's number
        severity_text=text,
        body=AnyValue(string_value=line.message),
        attributes=_attributes({**({ORDER: line.order} if line.order else {}), **line.fields}),
        trace_id=bytes.fromhex(line.trace_id),
        span_id=bytes.fromhex(line.span_id),
    )


def _attributes(values: Mapping[str, Value]) -> list[KeyValue]:
    """A value that is empty says nothing."""
    return [KeyValue(key=name, value=_value(value)) for name, value in values.items() if value is not None]


def _value(value: Value) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int() if -(2**63) <= value < 2**63:
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case list():
            return AnyValue(array_value=ArrayValue(values=[_value(each) for each in value]))
        case dict():
            return AnyValue(kvlist_value=KeyValueList(values=_attributes(value)))
        case None:
            return AnyValue()
        case _:
            return AnyValue(string_value=str(value))
