"""OTLP's words and ours. Decoded is only what is read."""

import base64
from collections.abc import Iterable, Iterator

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from services.chassis.otlp_lines import ORDER
from services.log_files import LEVELS, Line
from services.telemetry.model import Span, SpanEvent, SpanLink, Value

_KINDS = ("INTERNAL", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUS = ("UNSET", "OK", "ERROR")
_NOTHING = frozenset({bytes(8), bytes(16), b""})


def source(resource: Resource) -> tuple[str, str]:
    """Service and instance, as the semantic conventions name them."""
    service = instance = ""
    for each in resource.attributes:
        if each.key == "service.name":
            service = each.value.string_value
        elif each.key == "service.instance.id":
            instance = each.value.string_value
    return service or "unknown_service", instance


def is_sound(span: trace_pb2.Span) -> bool:
    """Ids have their length and are not all zeros (trace.proto)."""
    trace, id = span.trace_id, span.span_id
    return len(trace) == 16 and len(id) == 8 and trace not in _NOTHING and id not in _NOTHING


def span(data: bytes, service: str, instance: str) -> Span:
    """Of an encoded Span. Raises DecodeError."""
    read = trace_pb2.Span.FromString(data)
    kind, status = int(read.kind), int(read.status.code)
    return Span(
        trace_id=read.trace_id.hex(),
        span_id=read.span_id.hex(),
        parent_id="" if read.parent_span_id in _NOTHING else read.parent_span_id.hex(),
        service=service,
        instance=instance,
        name=read.name,
        kind=_KINDS[kind] if 0 <= kind < len(_KINDS) else "INTERNAL",
        start_ns=read.start_time_unix_nano,
        end_ns=read.end_time_unix_nano,
        status=_STATUS[status] if 0 <= status < len(_STATUS) else "UNSET",
        status_message=read.status.message,
        attributes=attributes(read.attributes),
        events=tuple(SpanEvent(each.name, each.time_unix_nano, attributes(each.attributes)) for each in read.events),
        links=tuple(
            SpanLink(each.trace_id.hex(), each.span_id.hex(), attributes(each.attributes)) for each in read.links
        ),
    )


def lines(request: ExportLogsServiceRequest) -> list[Line]:
    """The records of a request; the store gives them their ids."""
    return [
        _line(record, service, instance)
        for resource in request.resource_logs
        for service, instance in (source(resource.resource),)
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def _line(record: LogRecord, service: str, instance: str) -> Line:
    fields = attributes(record.attributes)
    order = fields.get(ORDER)
    if isinstance(order, str):
        del fields[ORDER]
    body, level = record.body.string_value or _value(record.body), _level(int(record.severity_number))
    if isinstance(body, dict):  # a structured record: what else a line has may stand in it, and Envoy says `-` for none
        fields = {name: value for name, value in {**body, **fields}.items() if value != "-"}
        body = fields.pop("message", "")
        if not record.severity_number and fields.get("level") in LEVELS:
            level = str(fields.pop("level"))
        if not instance and isinstance(fields.get("instance"), str):
            instance = str(fields.pop("instance"))
    return Line(
        time_ns=record.time_unix_nano or record.observed_time_unix_nano,
        level=level,
        service=service,
        instance=instance,
        message=body if isinstance(body, str) else "" if body is None else str(body),
        trace_id="" if record.trace_id in _NOTHING else record.trace_id.hex(),
        span_id="" if record.span_id in _NOTHING else record.span_id.hex(),
        order=order if isinstance(order, str) else "",
        fields=fields,
    )


def _level(severity: int) -> str:
    """Logs data model, severity fields: 1 to 4 TRACE, 5 to 8 DEBUG, 9 to 12 INFO, 13 to 16 WARN, above ERROR, FATAL."""
    return (
        "info"
        if not severity
        else "debug"
        if severity < 9
        else "info"
        if severity < 13
        else "warning"
        if severity < 17
        else "error"
    )


def attributes(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    """By key; of two with one key the last."""
    # Most are texts, and asking which kind of value there is costs more than a look.
    return {pair.key: (value := pair.value).string_value or _value(value) for pair in pairs}


def _value(value: AnyValue) -> Value:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_value(each) for each in value.array_value.values]
        case "kvlist_value":
            return attributes(value.kvlist_value.values)
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case kind:
            plain: Value = getattr(value, kind)
            return plain


def texts(values: Iterable[Value]) -> Iterator[str]:
    """Those among the values, also of lists and of values that have fields themselves."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from texts(value.values())
        elif isinstance(value, list):
            yield from texts(value)
