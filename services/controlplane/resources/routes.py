"""Routes: one per rpc, with what may be tried again, who may call, and how many traces are kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.config.route.v3 import (
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
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.envoy.type.v3 import FractionalPercent, FractionalPercentDenominatorType
from envoy_data_plane.google.protobuf import Any
from google.protobuf import duration_pb2
from mesh.v1 import policy_pb2

from services.controlplane.contract import Contract, Rpc
from services.controlplane.resources.access import for_anybody, for_nobody, for_roles
from services.controlplane.resources.carried import Way, carried, to_cluster
from services.controlplane.resources.clusters import CONTROL_PLANE
from services.controlplane.resources.encoding import Pieces, field, packed
from services.controlplane.resources.limits import by_address, by_user, limits
from services.controlplane.resources.replies import DOOR
from services.controlplane.resources.versions import cluster_name, versions_of
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


type Policies = Mapping[str, policy_pb2.Policy]
type Sampling = Mapping[str, float]
"""Percent of new traces, per service."""


# Numbers of repeated fields, whose items are encoded one by one.
_HOSTS_OF_A_TABLE = 2
_ROUTES_OF_A_HOST = 3


def edge_routes(contract: Contract, policies: Policies, sampling: Sampling, pieces: Pieces) -> Resource:
    """The way in: exact gRPC paths only. REST paths have become those when a call is routed."""
    rpcs = [rpc for rpc in contract.rpcs if rpc.at_edge]
    routes = [
        *(
            pieces.of(
                _ROUTES_OF_A_HOST, f"calls {rpc.path}", _edge_calls, rpc, policies[rpc.service], sampling[rpc.service]
            )
            for rpc in rpcs
        ),
        pieces.of(_ROUTES_OF_A_HOST, "answered here", _answered_here),
        *(pieces.of(_ROUTES_OF_A_HOST, f"preflight {rpc.path}", _preflight, rpc) for rpc in rpcs),
        pieces.of(_ROUTES_OF_A_HOST, "document", _document, contract.openapi),
        *(pieces.of(_ROUTES_OF_A_HOST, f"rest {rpc.path}", _rest, rpc, sampling[rpc.service]) for rpc in rpcs),
    ]
    rate_limits = {service: policy.rate_limit for service, policy in policies.items()}
    host = VirtualHost(
        name=EDGE,
        domains=["*"],
        request_headers_to_remove=[DOOR],
        # Over gRPC messages stream through, and the service refuses what is too large.
        typed_per_filter_config=_cors()
        | {BUFFER: packed(BufferPerRoute(disabled=True))}
        | limits(rate_limits | {CONTROL_PLANE: _OWN_LIMIT}),
    )
    table = RouteConfiguration(
        name=EDGE,
        request_headers_to_add=[_TRAILERS],
        max_direct_response_body_size_bytes=len(contract.openapi),
    )
    body = bytes(table) + field(_HOSTS_OF_A_TABLE, bytes(host) + b"".join(routes))
    return Resource(Kind.ROUTES, EDGE, body, _clusters_of(rpcs, policies))


def mesh_routes(contract: Contract, policies: Policies, sampling: Sampling, pieces: Pieces) -> Resource:
    """Between services: the authority is the name of a service."""
    hosts = [
        pieces.of(
            _HOSTS_OF_A_TABLE, f"mesh {service}", _mesh_host, service, contract.of(service), policies[service],
            sampling[service],
        )
        for service in contract.services
    ]  # fmt: skip
    table = RouteConfiguration(name=MESH, ignore_port_in_host_matching=True)
    body = bytes(table) + b"".join(hosts)
    return Resource(Kind.ROUTES, MESH, body, _clusters_of(contract.rpcs, policies))


def _mesh_host(
    service: str, rpcs: Sequence[Rpc], policy: policy_pb2.Policy, sampling_percent: float
) -> Iterator[VirtualHost]:
    routes = _mesh_calls(service, rpcs, policy, _tracing(sampling_percent))
    yield VirtualHost(name=service, domains=[service], routes=routes)


def _answered_here() -> Iterator[Route]:
    for path in ANSWERED_HERE:
        yield Route(
            name=path,
            match=_call(path),
            route=to_cluster(CONTROL_PLANE, None),
            metadata=by_address(CONTROL_PLANE, _OWN_LIMIT),
            typed_per_filter_config=for_anybody(),
        )


def _edge_calls(rpc: Rpc, policy: policy_pb2.Policy, sampling_percent: float) -> Iterator[Route]:
    metadata = (by_address if rpc.public else by_user)(rpc.service, policy.rate_limit)
    access = for_anybody() if rpc.public else for_roles(rpc.roles)
    for some in carried(rpc.service, rpc, policy, Way.EDGE):
        yield Route(
            name=f"{rpc.path}{some.name}",
            match=_call(rpc.path, some.headers),
            route=some.action,
            metadata=metadata,
            typed_per_filter_config=access | some.filters,
            tracing=_tracing(sampling_percent),
        )


def _mesh_calls(service: str, rpcs: Sequence[Rpc], policy: policy_pb2.Policy, tracing: Tracing) -> list[Route]:
    """The rpcs of the contract; then health, reflection, and rpcs that are newer than this control plane."""
    ways = [(rpc, RouteMatch(path=rpc.path)) for rpc in rpcs]
    return [
        Route(
            name=f"{rpc.path if rpc else service + '/'}{some.name}",
            match=replace(match, headers=some.headers),
            route=some.action,
            typed_per_filter_config=some.filters,
            tracing=tracing,
        )
        for rpc, match in [*ways, (None, RouteMatch(prefix="/"))]
        for some in carried(service, rpc, policy, Way.MESH)
    ]


def _clusters_of(rpcs: Sequence[Rpc], policies: Policies) -> frozenset[tuple[Kind, str]]:
    return frozenset(
        (Kind.CLUSTER, cluster_name(rpc.service, version, streaming=rpc.streaming))
        for rpc in rpcs
        for version in versions_of(policies[rpc.service].canary)
    )


def _call(path: str, headers: Sequence[HeaderMatcher] = ()) -> RouteMatch:
    return RouteMatch(path=path, headers=[_method("POST"), *headers])


def _method(name: str) -> HeaderMatcher:
    return HeaderMatcher(name=":method", string_match=StringMatcher(exact=name))


def _preflight(rpc: Rpc) -> Iterator[Route]:
    """Where a browser asks whether it may call: CORS answers, and no call passes."""
    yield Route(
        name=f"{rpc.path} preflight",
        match=RouteMatch(path=rpc.path, headers=[_method("OPTIONS")]),
        route=RouteAction(cluster=rpc.service),
        typed_per_filter_config=for_nobody(),
    )


def _rest(rpc: Rpc, sampling_percent: float) -> Iterator[Route]:
    """REST paths before they are transcoded: here traces are sampled and preflights answered, and no call passes."""
    for pattern in rpc.http_patterns:
        yield Route(
            name=f"{rpc.path} REST",
            match=RouteMatch(safe_regex=RegexMatcher(regex=pattern)),
            route=RouteAction(cluster=rpc.service),
            # The transcoder would take a body of any size.
            typed_per_filter_config=for_nobody()
            | {BUFFER: packed(BufferPerRoute(buffer=Buffer(max_request_bytes=REST_BODY_BYTES)))},
            tracing=_tracing(sampling_percent),
        )


def _document(openapi: bytes) -> Iterator[Route]:
    """What there is over REST, for anybody and for pages of any origin."""
    # The cors filter leaves routes without a cluster alone.
    headers = {"content-type": "application/json", "access-control-allow-origin": "*"}
    yield Route(
        name=DOCUMENT,
        match=RouteMatch(
            path=DOCUMENT,
            headers=[
                HeaderMatcher(name=":method", string_match=StringMatcher(safe_regex=RegexMatcher(regex="GET|HEAD")))
            ],
        ),
        direct_response=DirectResponseAction(status=200, body=DataSource(inline_bytes=openapi)),
        response_headers_to_add=[
            HeaderValueOption(header=HeaderValue(key=name, value=value)) for name, value in headers.items()
        ],
        metadata=by_address(CONTROL_PLANE, _OWN_LIMIT),
        # The transcoder refuses what is no rpc.
        typed_per_filter_config=for_anybody() | {TRANSCODER: packed(FilterConfig(disabled=True))},
    )


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
