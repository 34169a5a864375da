"""What Envoy writes about every call: on stdout and, where it is asked to, to the OTLP endpoint."""

from collections.abc import Iterator
from datetime import timedelta

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLog,
    AccessLogFilter,
    ComparisonFilterOp,
    GrpcStatusFilter,
    GrpcStatusFilterStatus,
)
from envoy_data_plane.envoy.config.core.v3 import GrpcService, GrpcServiceEnvoyGrpc, SubstitutionFormatString
from envoy_data_plane.envoy.extensions.access_loggers.open_telemetry.v3 import OpenTelemetryAccessLogConfig
from envoy_data_plane.envoy.extensions.access_loggers.stream.v3 import StdoutAccessLog
from envoy_data_plane.opentelemetry.proto.common.v1 import AnyValue, KeyValue, KeyValueList

from services.controlplane.resources.clusters import OTLP
from services.controlplane.resources.encoding import Json, packed, struct
from services.controlplane.resources.which_calls import both, grpc, rest, status

PATH = "%PATH(NQ:ORIG_OR_PATH)%"
"""As the caller wrote it, without the query: there a token may stand, of somebody who does not know better."""
# Codes that say the shop failed; all others are the caller's affair.
_FAULTS = [
    GrpcStatusFilterStatus.UNKNOWN,
    GrpcStatusFilterStatus.DEADLINE_EXCEEDED,
    GrpcStatusFilterStatus.INTERNAL,
    GrpcStatusFilterStatus.UNAVAILABLE,
    GrpcStatusFilterStatus.DATA_LOSS,
]
_GATHERED, _GATHERED_BYTES = timedelta(seconds=1), 256 * 1024
"""By each of Envoy's threads, before it sends."""

type _Line = dict[str, str]


def access_logs(listener: str, *, otlp: bool) -> list[AccessLog]:
    """A line per call, in the field names of the services' own lines; `warning` where the shop failed.

    For REST there is no gRPC status in it: Envoy would guess one from the HTTP status, and guesses 404 wrong.
    """
    said = {
        "message": "call",
        "listener": listener,
        "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
        "authority": "%REQ(:AUTHORITY)%",
        "path": PATH,
        "code": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "detail": "%RESPONSE_CODE_DETAILS%",
        "duration_ms": "%DURATION%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "upstream": "%UPSTREAM_HOST%",
        "user_agent": "%REQ(USER-AGENT)%",
    }
    return [
        log
        for only, line in _told_apart(said)
        for log in (_stdout(line, only), *([_sent(listener, line, only)] if otlp else ()))
    ]


def _told_apart(said: _Line) -> Iterator[tuple[AccessLogFilter, _Line]]:
    """Of which calls what is said: a level and a status have no other way into a line than to be a line's own."""
    by_grpc = said | {"grpc_status": "%GRPC_STATUS%"}
    yield both(rest(), status(499, ComparisonFilterOp.LE)), said | {"level": "info"}
    yield both(rest(), status(500, ComparisonFilterOp.GE)), said | {"level": "warning"}
    yield both(grpc(), _at_fault(is_it=False)), by_grpc | {"level": "info"}
    yield both(grpc(), _at_fault(is_it=True)), by_grpc | {"level": "warning"}


def _at_fault(*, is_it: bool) -> AccessLogFilter:
    return AccessLogFilter(grpc_status_filter=GrpcStatusFilter(statuses=_FAULTS, exclude=not is_it))


def _stdout(line: _Line, only: AccessLogFilter) -> AccessLog:
    """As JSON. `envoy` is what a launcher calls the only one; elsewhere stdout is known by whose it is."""
    whole: dict[str, Json] = {
        "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
        "service": "envoy",
        "instance": "envoy",
        **line,
        "trace_id": "%TRACE_ID%",
        "span_id": "%SPAN_ID%",
    }
    log = StdoutAccessLog(log_format=SubstitutionFormatString(json_format=struct(whole), omit_empty_values=True))
    return AccessLog(name="envoy.access_loggers.stdout", filter=only, typed_config=packed(log))


def _sent(listener: str, line: _Line, only: AccessLogFilter) -> AccessLog:
    """As a log record whose body has fields; its time and its ids Envoy sets by itself. What cannot go is dropped."""
    log = OpenTelemetryAccessLogConfig(
        grpc_service=GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=OTLP)),
        log_name=listener,
        stat_prefix=f"{listener}.",
        disable_builtin_labels=True,
        resource_attributes=_fields({"service.name": "envoy"}),
        body=AnyValue(kvlist_value=_fields({**line, "instance": "envoy-%HOSTNAME%"})),
        buffer_flush_interval=_GATHERED,
        buffer_size_bytes=_GATHERED_BYTES,
    )
    return AccessLog(name="envoy.access_loggers.open_telemetry", filter=only, typed_config=packed(log))


def _fields(of: _Line) -> KeyValueList:
    return KeyValueList(values=[KeyValue(key=key, value=AnyValue(string_value=text)) for key, text in of.items()])
