"""Which calls a reply of Envoy's or a line about a call is for."""

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    HeaderFilter,
    OrFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import RuntimeUInt32
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

DOOR = "x-shopmesh-content-type"
"""The content-type that the caller sent: by the time of a reply, the filters have made one of all doors."""


def rest() -> AccessLogFilter:
    """A call that is not gRPC, or was not before it was transcoded."""
    return AccessLogFilter(or_filter=OrFilter(filters=[_grpc_type(wanted=False), _transcoded(wanted=True)]))


def grpc() -> AccessLogFilter:
    """The others: gRPC and gRPC-web."""
    return AccessLogFilter(and_filter=AndFilter(filters=[_grpc_type(wanted=True), _transcoded(wanted=False)]))


def grpc_web() -> AccessLogFilter:
    """Of the latter, those that came by gRPC-web."""
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


def status(number: int, how: ComparisonFilterOp = ComparisonFilterOp.EQ) -> AccessLogFilter:
    """By the HTTP status."""
    comparison = ComparisonFilter(
        op=how, value=RuntimeUInt32(default_value=number, runtime_key=f"shopmesh.reply.{number}")
    )
    return AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=comparison))


def both(one: AccessLogFilter, other: AccessLogFilter) -> AccessLogFilter:
    """Those that are both."""
    return AccessLogFilter(and_filter=AndFilter(filters=[one, other]))
