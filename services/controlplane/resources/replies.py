"""What Envoy says by itself."""

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLogFilter, ComparisonFilterOp
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    SubstitutionFormatString,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation

from services.controlplane.resources.encoding import extension, struct
from services.controlplane.resources.surroundings import Surroundings
from services.controlplane.resources.which_calls import DOOR, both, grpc, grpc_web, rest, status

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
            _trailers(both(grpc_web(), status(404)), _UNIMPLEMENTED, _NO_RPC),
            _text(both(grpc(), status(404)), _NO_RPC),
            *(_trailers(both(grpc_web(), status(number)), GRPC_CODE[number], say) for number, say in _WORDS.items()),
            *(_text(both(grpc(), status(number)), say) for number, say in {401: no_token, **_WORDS}.items()),
            *(
                _json(both(rest(), status(number)), code, {401: no_token, **_WORDS}.get(number))
                for number, code in GRPC_CODE.items()
            ),
            # Not what a route answers by itself with 200.
            _json(both(rest(), status(400, ComparisonFilterOp.GE)), _UNKNOWN),
        ]
    )


def _whose_tokens(surroundings: Surroundings) -> str:
    """Envoy's own words, such as "Jwt issuer is not configured", and what the token should have been."""
    issuer, audience = (text.replace("%", "%%") for text in (surroundings.issuer, surroundings.audience))
    return f"%LOCAL_REPLY_BODY%: tokens are taken from the issuer {issuer} for the audience {audience}."


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
