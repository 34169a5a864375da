"""What Envoy says by itself, and what it writes about every call."""

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    HeaderFilter,
    OrFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import RuntimeUInt32, SubstitutionFormatString
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.access_loggers.stream.v3 import StdoutAccessLog
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from services.controlplane.resources.encoding import Json, packed, struct

GRPC_CODE = {400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 413: 8, 429: 8, 431: 8, 502: 14, 503: 14, 504: 14}
"""google.rpc.Code beside the HTTP status of Envoy's own replies; everything else is UNKNOWN."""
_UNKNOWN = 2


def local_replies() -> LocalReplyConfig:
    """Envoy's refusals over REST in the shape of all others. Over gRPC and gRPC-web Envoy writes trailers by itself."""
    return LocalReplyConfig(
        mappers=[
            ResponseMapper(
                filter=AccessLogFilter(and_filter=AndFilter(filters=[_rest(), _status(status)])),
                body_format_override=_body(code),
            )
            for status, code in GRPC_CODE.items()
        ]
        + [ResponseMapper(filter=_rest(), body_format_override=_body(_UNKNOWN))]
    )


def access_logs(listener: str) -> list[AccessLog]:
    """One JSON line per call, in the field names that the services' own lines have.

    For REST there is no gRPC status in it: Envoy would guess one from the HTTP status, and guesses 404 wrong.
    """
    line: dict[str, Json] = {
        "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
        "level": "info",
        "service": "envoy",
        "instance": "envoy",
        "message": "call",
        "listener": listener,
        "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
        "authority": "%REQ(:AUTHORITY)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "code": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "detail": "%RESPONSE_CODE_DETAILS%",
        "duration_ms": "%DURATION%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "upstream": "%UPSTREAM_HOST%",
        "trace_id": "%TRACE_ID%",
        "user_agent": "%REQ(USER-AGENT)%",
    }
    return [
        _stdout(line, _rest()),
        _stdout(line | {"grpc_status": "%GRPC_STATUS%"}, _grpc()),
    ]


def _stdout(line: dict[str, Json], only: AccessLogFilter) -> AccessLog:
    log = StdoutAccessLog(log_format=SubstitutionFormatString(json_format=struct(line)))
    return AccessLog(name="envoy.access_loggers.stdout", filter=only, typed_config=packed(log))


def _rest() -> AccessLogFilter:
    """A call that is not gRPC, or was not before it was transcoded."""
    return AccessLogFilter(or_filter=OrFilter(filters=[_grpc_type(wanted=False), _transcoded(wanted=True)]))


def _grpc() -> AccessLogFilter:
    """The others: gRPC and gRPC-web."""
    return AccessLogFilter(and_filter=AndFilter(filters=[_grpc_type(wanted=True), _transcoded(wanted=False)]))


def _grpc_type(*, wanted: bool) -> AccessLogFilter:
    return _header(
        HeaderMatcher(
            name="content-type",
            string_match=StringMatcher(prefix="application/grpc"),
            invert_match=not wanted,
            treat_missing_header_as_empty=True,
        )
    )


def _transcoded(*, wanted: bool) -> AccessLogFilter:
    return _header(HeaderMatcher(name="x-envoy-original-path", present_match=wanted))


def _header(matcher: HeaderMatcher) -> AccessLogFilter:
    return AccessLogFilter(header_filter=HeaderFilter(header=matcher))


def _status(status: int) -> AccessLogFilter:
    comparison = ComparisonFilter(
        op=ComparisonFilterOp.EQ, value=RuntimeUInt32(default_value=status, runtime_key=f"shopmesh.reply.{status}")
    )
    return AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=comparison))


def _body(code: int) -> SubstitutionFormatString:
    return SubstitutionFormatString(json_format=struct({"code": code, "message": "%LOCAL_REPLY_BODY%", "details": []}))
