"""Log lines in OTLP's words."""

from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from services.log_files import Line

ORDER = "order"
"""The attribute of a log record that names the order it is about."""

_SEVERITY = {"debug": (5, "DEBUG"), "info": (9, "INFO"), "warning": (13, "WARN"), "error": (17, "ERROR")}
"""Of OTLP's log data model: the first of each range."""


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


def _attributes(values: Mapping[str, Any]) -> list[KeyValue]:
    """A value that is empty says nothing."""
    return [KeyValue(key=name, value=_value(value)) for name, value in values.items() if value is not None]


def _value(value: object) -> AnyValue:
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
