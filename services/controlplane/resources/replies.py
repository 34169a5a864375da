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
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    RuntimeUInt32,
    SubstitutionFormatString,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.access_loggers.stream.v3 import StdoutAccessLog
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from services.controlplane.resources.encoding import Json, extension, packed, struct
from services.controlplane.resources.surroundings import Surroundings

GRPC_CODE = {400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 413: 8, 429: 8, 431: 8, 502: 14, 503: 14, 504: 14}
"""google.rpc.Code beside the HTTP status of Envoy's own replies; everything else is UNKNOWN."""
_UNKNOWN = 2
_UNIMPLEMENTED = 12
# Where Envoy's own words say little, and where over gRPC-web it would guess another code from the HTTP status.
_WORDS = {
    413: "The body is larger than 1 MiB.",
    429: "Too many calls: come back when the seconds of retry-after have passed.",
    431: "The headers are larger than 32 KiB, or more than 200.",
}
_NO_RPC = "There is no such rpc, or it is not for callers outside."
PATH = "%PATH(NQ:ORIG_OR_PATH)%"
"""As the caller wrote it, without the query: there a token may stand, of somebody who does not know better."""
DOOR = "x-shopmesh-content-type"
"""The content-type that the caller sent: by the time of a reply, the filters have made one of all doors."""


def door_noted() -> TypedExtensionConfig:
    """Writes DOOR into every request, over whatever the caller put there."""
    noted = Mutation(
        append=HeaderValueOption(
            header=HeaderValue(key=DOOR, value="%REQ(CONTENT-TYPE)%"),
            append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
            keep_empty_value=True,
        )
    )
    return extension("envoy.http.early_header_mutation.header_mutation", HeaderMutation(mutations=[noted]))


def local_replies(surroundings: Surroundings) -> LocalReplyConfig:
    """Envoy's refusals: over REST in the shape of all others, and everywhere with the right code and a message."""
    no_token = _whose_tokens(surroundings)
    return LocalReplyConfig(
        mappers=[
            _trailers(_both(_grpc_web(), _status(404)), _UNIMPLEMENTED, _NO_RPC),
            _text(_both(_grpc(), _status(404)), _NO_RPC),
            *(_trailers(_both(_grpc_web(), _status(status)), GRPC_CODE[status], say) for status, say in _WORDS.items()),
            *(_text(_both(_grpc(), _status(status)), say) for status, say in {401: no_token, **_WORDS}.items()),
            *(
                _json(_both(_rest(), _status(status)), code, {401: no_token, **_WORDS}.get(status))
                for status, code in GRPC_CODE.items()
            ),
            # Not what a route answers by itself with 200.
            _json(_both(_rest(), _status(400, ComparisonFilterOp.GE)), _UNKNOWN),
        ]
    )


def _whose_tokens(surroundings: Surroundings) -> str:
    """Envoy's own words, such as "Jwt issuer is not configured", and what the token should have been."""
    issuer, audience = (text.replace("%", "%%") for text in (surroundings.issuer, surroundings.audience))
    return f"%LOCAL_REPLY_BODY%: tokens are taken from the issuer {issuer} for the audience {audience}."


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
        "path": PATH,
        "code": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "detail": "%RESPONSE_CODE_DETAILS%",
        "duration_ms": "%DURATION%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "upstream": "%UPSTREAM_HOST%",
        "trace_id": "%TRACE_ID%",
        "span_id": "%SPAN_ID%",
        "user_agent": "%REQ(USER-AGENT)%",
    }
    return [
        _stdout(line, _rest()),
        _stdout(line | {"grpc_status": "%GRPC_STATUS%"}, _grpc()),
    ]


def _stdout(line: dict[str, Json], only: AccessLogFilter) -> AccessLog:
    log = StdoutAccessLog(log_format=SubstitutionFormatString(json_format=struct(line), omit_empty_values=True))
    return AccessLog(name="envoy.access_loggers.stdout", filter=only, typed_config=packed(log))


def _rest() -> AccessLogFilter:
    """A call that is not gRPC, or was not before it was transcoded."""
    return AccessLogFilter(or_filter=OrFilter(filters=[_grpc_type(wanted=False), _transcoded(wanted=True)]))


def _grpc() -> AccessLogFilter:
    """The others: gRPC and gRPC-web."""
    return AccessLogFilter(and_filter=AndFilter(filters=[_grpc_type(wanted=True), _transcoded(wanted=False)]))


def _grpc_web() -> AccessLogFilter:
    return _header(HeaderMatcher(name=DOOR, string_match=StringMatcher(prefix="application/grpc-web")))


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


def _status(status: int, how: ComparisonFilterOp = ComparisonFilterOp.EQ) -> AccessLogFilter:
    comparison = ComparisonFilter(
        op=how, value=RuntimeUInt32(default_value=status, runtime_key=f"shopmesh.reply.{status}")
    )
    return AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=comparison))


def _both(one: AccessLogFilter, other: AccessLogFilter) -> AccessLogFilter:
    return AccessLogFilter(and_filter=AndFilter(filters=[one, other]))


def _json(of: AccessLogFilter, code: int, message: str | None = None) -> ResponseMapper:
    body = struct({"code": code, "message": message or "%LOCAL_REPLY_BODY%", "details": []})
    return ResponseMapper(filter=of, body_format_override=SubstitutionFormatString(json_format=body))


def _text(of: AccessLogFilter, message: str) -> ResponseMapper:
    """For gRPC, where the text becomes grpc-message."""
    return ResponseMapper(filter=of, body_format_override=_plain(message))


def _trailers(of: AccessLogFilter, code: int, message: str) -> ResponseMapper:
    """For gRPC-web: trailers without a message stand among the headers."""
    return ResponseMapper(
        filter=of,
        status_code=200,
        headers_to_add=[
            HeaderValueOption(
                header=HeaderValue(key=name, value=value),
                append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
            )
            for name, value in {"grpc-status": str(code), "grpc-message": message}.items()
        ],
        body_format_override=_plain("", content_type="application/grpc-web+proto"),
    )


def _plain(text: str, content_type: str = "") -> SubstitutionFormatString:
    return SubstitutionFormatString(text_format_source=DataSource(inline_string=text), content_type=content_type)
