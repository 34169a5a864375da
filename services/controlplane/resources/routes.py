"""Routes: one per rpc, with what may be tried again, who may call, and how many traces are kept."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.config.route.v3 import (
    Decorator,
    DirectResponseAction,
    FilterConfig,
    HeaderMatcher,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    Tracing,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.buffer.v3 import Buffer, BufferPerRoute
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import CorsPolicy
from envoy_data_plane.envoy.extensions.filters.http.local_ratelimit.v3 import LocalRateLimit
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.envoy.type.v3 import FractionalPercent, FractionalPercentDenominatorType
from envoy_data_plane.google.protobuf import Any
from google.protobuf import duration_pb2
from mesh.v1 import policy_pb2

from services.controlplane.contract import Rpc
from services.controlplane.resources.access import for_anybody, for_nobody, for_roles
from services.controlplane.resources.carried import Terms, Way, action, carried, header_matchers
from services.controlplane.resources.clusters import CONTROL_PLANE
from services.controlplane.resources.encoding import packed
from services.controlplane.resources.faults import made
from services.controlplane.resources.limits import LOCAL_RATELIMIT, buckets_of, counted_by, limits, wait
from services.controlplane.resources.stencils import BLANKS, field, stencil
from services.controlplane.resources.versions import cluster_name, versions_of
from services.controlplane.resources.which_calls import DOOR
from services.controlplane.snapshot import Kind, Resource

EDGE = "edge"
MESH = "mesh"
CORS = "envoy.filters.http.cors"
BUFFER = "envoy.filters.http.buffer"
TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
DOCUMENT = "/openapi.json"

REST_BODY_BYTES = 1024 * 1024
"""It is held before anybody has looked at the token; the largest request that is valid takes a tenth."""

ANSWERED_HERE = (
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
"""What the control plane answers for all services together."""
# Whoever asks too much must not keep it from its work. A control plane has no policy that could say other figures.
_OWN_LIMIT = policy_pb2.RateLimit(
    address=policy_pb2.TokenBucket(calls=200, per=duration_pb2.Duration(seconds=1), burst=400)
)

# gRPC resets what does not ask for trailers, or is no POST. Resets count against the instance: without these two, a few
# calls of anybody take it out.
_TRAILERS = HeaderValueOption(
    header=HeaderValue(key="te", value="trailers"),
    append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
)


@dataclass(frozen=True, slots=True)
class ServiceRoutes:
    """What one service adds to the tables of all, encoded."""

    edge: bytes
    """Routes of its rpcs, by their gRPC paths."""
    rest: bytes
    """Routes of its REST paths."""
    buckets: bytes
    """Of its rate limit."""
    mesh: bytes
    """Its virtual host."""
    edge_clusters: frozenset[str]
    mesh_clusters: frozenset[str]

    @classmethod
    def of(
        cls, service: str, rpcs: Sequence[Rpc], policy: policy_pb2.Policy, sampling_percent: float
    ) -> "ServiceRoutes":
        """`sampling_percent`: of new traces."""
        at_edge = [rpc for rpc in rpcs if rpc.at_edge]
        return cls(
            b"".join(_edge_routes(at_edge, policy, sampling_percent)),
            b"".join(_rest_routes(at_edge, sampling_percent)),
            buckets_of(service, policy.rate_limit),
            field(_HOSTS_OF_A_TABLE, b"".join(_mesh_host(service, rpcs, policy, sampling_percent))),
            _clusters_of(at_edge, policy),
            _clusters_of(rpcs, policy),
        )


# Numbers of repeated fields, whose items are encoded one by one.
_HOSTS_OF_A_TABLE = 2
_ROUTES_OF_A_HOST = 3


def edge_table(services: Sequence[ServiceRoutes], openapi: bytes) -> Resource:
    """The way in: exact gRPC paths only. REST paths have become those when a call is routed."""
    rate_limits = limits([*(each.buckets for each in services), buckets_of(CONTROL_PLANE, _OWN_LIMIT)])
    host = [
        _edge_host().filled(rate_limits),
        *(each.edge for each in services),
        *_answered_here(),
        field(_ROUTES_OF_A_HOST, _document().filled(openapi) + _counted_here()),
        *(each.rest for each in services),
    ]
    body = _edge_table(len(openapi)).filled() + field(_HOSTS_OF_A_TABLE, b"".join(host))
    return _table(EDGE, body, (each.edge_clusters for each in services))


def mesh_table(services: Sequence[ServiceRoutes]) -> Resource:
    """Between services: the authority is the name of a service."""
    body = _mesh_table().filled() + b"".join(each.mesh for each in services)
    return _table(MESH, body, (each.mesh_clusters for each in services))


def _table(name: str, body: bytes, clusters: Iterable[frozenset[str]]) -> Resource:
    needs = frozenset((Kind.CLUSTER, cluster) for each in clusters for cluster in each)
    return Resource(Kind.ROUTES, name, body, needs)


@stencil
def _edge_table(longest_answer: int) -> RouteConfiguration:
    return RouteConfiguration(
        name=EDGE, request_headers_to_add=[_TRAILERS], max_direct_response_body_size_bytes=longest_answer
    )


@stencil
def _mesh_table() -> RouteConfiguration:
    return RouteConfiguration(name=MESH, ignore_port_in_host_matching=True)


@stencil
def _edge_host() -> VirtualHost:
    rate_limits = packed(LocalRateLimit())
    rate_limits.value = BLANKS[0].encode()
    return VirtualHost(
        name=EDGE,
        domains=["*"],
        request_headers_to_remove=[DOOR],
        # Over gRPC messages stream through, and the service refuses what is too large.
        typed_per_filter_config=_cors() | {BUFFER: packed(BufferPerRoute(disabled=True)), LOCAL_RATELIMIT: rate_limits},
    )


def _edge_routes(rpcs: Sequence[Rpc], policy: policy_pb2.Policy, sampling_percent: float) -> Iterator[bytes]:
    for rpc in rpcs:
        for some in carried(rpc.service, rpc, policy, Way.EDGE):
            call = _edge_call(None if rpc.public else rpc.roles, some.terms, some.fault, sampling_percent)
            route = call.filled(f"{rpc.path}{some.name}", rpc.path, some.cluster)
            counted = _counted(rpc.service, policy.rate_limit, user=not rpc.public)
            yield field(_ROUTES_OF_A_HOST, route + counted + _span_of(rpc))
        yield field(_ROUTES_OF_A_HOST, _preflight().filled(f"{rpc.path} preflight", rpc.path, rpc.service))


def _answered_here() -> Iterator[bytes]:
    call = _edge_call(None, Terms(), None, None)
    for path in ANSWERED_HERE:
        yield field(_ROUTES_OF_A_HOST, call.filled(path, path, CONTROL_PLANE) + _counted_here())


def _counted_here() -> bytes:
    return _counted(CONTROL_PLANE, _OWN_LIMIT, user=False)


@stencil
def _edge_call(
    roles: tuple[str, ...] | None, terms: Terms, fault: policy_pb2.Fault | None, sampling_percent: float | None
) -> Route:
    """`roles`: None for anybody; `sampling_percent`: None for what is not traced."""
    name, path, cluster = BLANKS
    return Route(
        name=name,
        match=_call(path, header_matchers(terms)),
        route=action(cluster, terms),
        typed_per_filter_config=(for_anybody() if roles is None else for_roles(roles)) | (made(fault) if fault else {}),
        tracing=None if sampling_percent is None else _tracing(sampling_percent),
    )


def _counted(service: str, limit: policy_pb2.RateLimit, *, user: bool) -> bytes:
    """To be joined with the rest of a route."""
    return _route_counted(user=user).filled(service, wait(limit.user if user else limit.address))


@stencil
def _route_counted(*, user: bool) -> Route:
    return Route(metadata=counted_by(user=user))


def _mesh_host(
    service: str, rpcs: Sequence[Rpc], policy: policy_pb2.Policy, sampling_percent: float
) -> Iterator[bytes]:
    """The rpcs of the contract; then health, reflection, and rpcs that are newer than this control plane."""
    yield _host().filled(service)
    for rpc in (*rpcs, None):
        path = rpc.path if rpc else "/"
        for some in carried(service, rpc, policy, Way.MESH):
            call = _mesh_call(some.terms, some.fault, sampling_percent, below=rpc is None)
            name = f"{rpc.path if rpc else service + '/'}{some.name}"
            yield field(_ROUTES_OF_A_HOST, call.filled(name, path, some.cluster) + (_span_of(rpc) if rpc else b""))


@stencil
def _host() -> VirtualHost:
    return VirtualHost(name=BLANKS[0], domains=[BLANKS[0]])


@stencil
def _mesh_call(terms: Terms, fault: policy_pb2.Fault | None, sampling_percent: float, *, below: bool) -> Route:
    """`below`: for all paths below the one that is filled in."""
    name, path, cluster = BLANKS
    return Route(
        name=name,
        match=RouteMatch(path=None if below else path, prefix=path if below else None, headers=header_matchers(terms)),
        route=action(cluster, terms),
        typed_per_filter_config=made(fault) if fault else {},
        tracing=_tracing(sampling_percent),
    )


def _clusters_of(rpcs: Sequence[Rpc], policy: policy_pb2.Policy) -> frozenset[str]:
    return frozenset(
        cluster_name(rpc.service, version, streaming=rpc.streaming)
        for rpc in rpcs
        for version in versions_of(policy.canary)
    )


def _call(path: str, headers: Sequence[HeaderMatcher] = ()) -> RouteMatch:
    return RouteMatch(path=path, headers=[_method("POST"), *headers])


def _method(name: str) -> HeaderMatcher:
    return HeaderMatcher(name=":method", string_match=StringMatcher(exact=name))


@stencil
def _preflight() -> Route:
    """Where a browser asks whether it may call: CORS answers, and no call passes."""
    name, path, cluster = BLANKS
    return Route(
        name=name,
        match=RouteMatch(path=path, headers=[_method("OPTIONS")]),
        route=RouteAction(cluster=cluster),
        typed_per_filter_config=for_nobody(),
    )


def _rest_routes(rpcs: Sequence[Rpc], sampling_percent: float) -> Iterator[bytes]:
    for rpc in rpcs:
        for pattern in rpc.http_patterns:
            route = _rest(sampling_percent).filled(f"{rpc.path} REST", pattern, rpc.service)
            yield field(_ROUTES_OF_A_HOST, route + _span_of(rpc))


@stencil
def _rest(sampling_percent: float) -> Route:
    """REST paths before they are transcoded: here traces are sampled and preflights answered, and no call passes."""
    name, pattern, cluster = BLANKS
    return Route(
        name=name,
        match=RouteMatch(safe_regex=RegexMatcher(regex=pattern)),
        route=RouteAction(cluster=cluster),
        # The transcoder would take a body of any size.
        typed_per_filter_config=for_nobody()
        | {BUFFER: packed(BufferPerRoute(buffer=Buffer(max_request_bytes=REST_BODY_BYTES)))},
        tracing=_tracing(sampling_percent),
    )


@stencil
def _document() -> Route:
    """What there is over REST, for anybody and for pages of any origin."""
    # The cors filter leaves routes without a cluster alone.
    headers = {"content-type": "application/json", "access-control-allow-origin": "*"}
    return Route(
        name=DOCUMENT,
        match=RouteMatch(
            path=DOCUMENT,
            headers=[
                HeaderMatcher(name=":method", string_match=StringMatcher(safe_regex=RegexMatcher(regex="GET|HEAD")))
            ],
        ),
        direct_response=DirectResponseAction(status=200, body=DataSource(inline_bytes=BLANKS[0].encode())),
        response_headers_to_add=[
            HeaderValueOption(header=HeaderValue(key=name, value=value)) for name, value in headers.items()
        ],
        # The transcoder refuses what is no rpc.
        typed_per_filter_config=for_anybody() | {TRANSCODER: packed(FilterConfig(disabled=True))},
    )


def _span_of(rpc: Rpc) -> bytes:
    """Envoy's span is called as those of the services are. To be joined with the rest of a route."""
    return _route_named().filled(rpc.path.removeprefix("/"))


@stencil
def _route_named() -> Route:
    return Route(decorator=Decorator(operation=BLANKS[0], propagate=False))


def _tracing(percent: float) -> Tracing:
    """The share of new traces that is kept; a call that brings a trace context keeps the decision of that one."""
    return Tracing(
        client_sampling=FractionalPercent(numerator=0),
        # Envoy draws a number below 10,000 from the request id: with a larger denominator it is always low enough.
        random_sampling=FractionalPercent(
            numerator=round(percent * 100), denominator=FractionalPercentDenominatorType.TEN_THOUSAND
        ),
    )


def _cors() -> dict[str, Any]:
    """Any page may call: its script sends the token, never the browser on its own."""
    return {
        CORS: packed(
            CorsPolicy(
                allow_origin_string_match=[StringMatcher(safe_regex=RegexMatcher(regex=".*"))],
                allow_methods="GET, POST, PUT, PATCH, DELETE, OPTIONS",
                allow_headers="authorization, content-type, grpc-timeout, traceparent, tracestate, x-grpc-web, "
                "x-user-agent",
                expose_headers="grpc-status, grpc-message, grpc-status-details-bin, retry-after",
                max_age="86400",
            )
        )
    }
