"""The two ways into Envoy: the edge for the world, the mesh for the services beside it."""

from collections.abc import Sequence

import betterproto2
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import (
    GrpcService,
    GrpcServiceEnvoyGrpc,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    TrafficDirection,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.trace.v3 import OpenTelemetryConfig, TracingHttp
from envoy_data_plane.envoy.extensions.filters.http.buffer.v3 import Buffer
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors
from envoy_data_plane.envoy.extensions.filters.http.grpc_json_transcoder.v3 import (
    GrpcJsonTranscoder,
    GrpcJsonTranscoderPrintOptions,
    GrpcJsonTranscoderRequestValidationOptions,
)
from envoy_data_plane.envoy.extensions.filters.http.grpc_stats.v3 import FilterConfig
from envoy_data_plane.envoy.extensions.filters.http.grpc_web.v3 import GrpcWeb
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerTracing,
    HttpFilter,
    Rds,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.envoy.type.tracing.v3 import CustomTag
from envoy_data_plane.envoy.type.v3 import Percent

from services.chassis.sizes import MESSAGE_BYTES
from services.controlplane.contract import Contract
from services.controlplane.resources.access import JWT_AUTHN, RBAC, jwt_filter, rbac_filter
from services.controlplane.resources.access_logs import PATH, access_logs
from services.controlplane.resources.clusters import ADS, JWKS, OTLP
from services.controlplane.resources.encoding import NEVER, address, extension, packed
from services.controlplane.resources.faults import FAULT, fault_filter
from services.controlplane.resources.limits import LOCAL_RATELIMIT, limits_filter
from services.controlplane.resources.replies import door_noted, local_replies
from services.controlplane.resources.routes import BUFFER, CORS, EDGE, MESH, REST_BODY_BYTES, TRANSCODER
from services.controlplane.resources.surroundings import HostPort, Surroundings
from services.controlplane.snapshot import Kind, Resource

_HEADERS_KIB = 32
_WINDOW_BYTES = 1024 * 1024
_HEADERS = 200
# A message of the largest size as JSON, where one byte takes up to six.
_JSON_BYTES = 6 * MESSAGE_BYTES


def edge_listener(contract: Contract, surroundings: Surroundings) -> Resource:
    """gRPC, gRPC-web and REST.

    The transcoder stands before tokens and roles, so that one set of rules on gRPC paths covers all three.
    """
    filters = [
        _filter(CORS, Cors()),
        _filter("envoy.filters.http.grpc_web", GrpcWeb()),
        _filter(BUFFER, Buffer(max_request_bytes=REST_BODY_BYTES)),
        _filter(TRANSCODER, _transcoder(contract)),
        _filter(JWT_AUTHN, jwt_filter(surroundings)),
        _filter(RBAC, rbac_filter()),
        _filter(LOCAL_RATELIMIT, limits_filter()),
        _filter(FAULT, fault_filter()),
        _answers_counted(),
        _filter("envoy.filters.http.router", Router()),
    ]
    manager = _manager(EDGE, surroundings, filters)
    manager.local_reply_config = local_replies(surroundings)
    manager.early_header_mutation_extensions = [door_noted(), _unreadable_removed()]
    # Callers are who they connect from, whatever their headers say.
    manager.use_remote_address = True
    manager.normalize_path = True
    # Envoy's default of 256 MiB would let a caller send as much before anybody reads it.
    manager.http2_protocol_options = Http2ProtocolOptions(
        initial_stream_window_size=_WINDOW_BYTES, initial_connection_window_size=_WINDOW_BYTES
    )
    return _listener(EDGE, surroundings.edge, manager, TrafficDirection.INBOUND, [JWKS, OTLP])


def mesh_listener(surroundings: Surroundings) -> Resource:
    """Between services; who may call what is checked by the service that is called."""
    manager = _manager(
        MESH,
        surroundings,
        [_filter(FAULT, fault_filter()), _answers_counted(), _filter("envoy.filters.http.router", Router())],
    )
    return _listener(MESH, surroundings.mesh, manager, TrafficDirection.OUTBOUND, [OTLP])


def _manager(name: str, surroundings: Surroundings, filters: list[HttpFilter]) -> HttpConnectionManager:
    return HttpConnectionManager(
        stat_prefix=name,
        rds=Rds(config_source=ADS, route_config_name=name),
        http_filters=filters,
        access_log=access_logs(name, otlp=surroundings.otlp_lines),
        tracing=_tracing(),
        # Routes decide; the default of 5 min would cut quiet streams.
        stream_idle_timeout=NEVER,
        # Less than services take (chassis/sizes.py), with the headers that Envoy adds.
        max_request_headers_kb=_HEADERS_KIB,
        common_http_protocol_options=HttpProtocolOptions(max_headers_count=_HEADERS),
    )


def _answers_counted() -> HttpFilter:
    """Counts by cluster how often which gRPC status was answered: without it refusals look like any other answer."""
    return _filter("envoy.filters.http.grpc_stats", FilterConfig(stats_for_all_methods=False))


def _unreadable_removed() -> TypedExtensionConfig:
    """Takes away what gRPC would answer INTERNAL for.

    Headers whose name HTTP allows and gRPC does not, and binary ones, which must be base64; no service reads any.
    """
    names = StringMatcher(safe_regex=RegexMatcher(regex=r"[a-z0-9_.-]*[^a-z0-9_.:-].*|.*-bin"))
    removed = Mutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=names))
    return extension("envoy.http.early_header_mutation.header_mutation", HeaderMutation(mutations=[removed]))


def _tracing() -> HttpConnectionManagerTracing:
    """Makes or continues a W3C trace context. Routes say how many traces are kept; what has no route is not kept.

    Of a URL spans keep the path alone: what stands behind it may be anything, also a token.
    """
    exporter = GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=OTLP))
    return HttpConnectionManagerTracing(
        client_sampling=Percent(value=0),
        random_sampling=Percent(value=0),
        custom_tags=[CustomTag(tag="http.url", value=PATH)],
        provider=TracingHttp(
            name="envoy.tracers.opentelemetry",
            typed_config=packed(OpenTelemetryConfig(service_name="envoy", grpc_service=exporter)),
        ),
    )


def _transcoder(contract: Contract) -> GrpcJsonTranscoder:
    return GrpcJsonTranscoder(
        proto_descriptor_bin=contract.descriptors,
        services=sorted({rpc.grpc_service for rpc in contract.rpcs if rpc.http_patterns}),
        # lowerCamelCase as protobuf's JSON has it; both spellings are read. Zeros are printed: a stock of 0 is news.
        print_options=GrpcJsonTranscoderPrintOptions(always_print_primitive_fields=True),
        # A refusal of a service becomes {code, message, details}.
        convert_grpc_status=True,
        max_response_body_size=_JSON_BYTES,
        query_param_unescape_plus=True,
        # Else `/v1/products/a?name=products/b` would answer with b, and the access log tell of a.
        ignored_query_parameters=sorted(frozenset().union(*(rpc.fields_in_paths for rpc in contract.rpcs))),
        request_validation_options=GrpcJsonTranscoderRequestValidationOptions(
            reject_unknown_method=True,
            reject_unknown_query_parameters=True,
            # Else a name in the body beats that in the path, and the access log tells of another resource.
            reject_binding_body_field_collisions=True,
        ),
    )


def _listener(
    name: str,
    at: HostPort,
    manager: HttpConnectionManager,
    direction: TrafficDirection,
    clusters: Sequence[str],
) -> Resource:
    chain = FilterChain(
        filters=[Filter(name="envoy.filters.network.http_connection_manager", typed_config=packed(manager))]
    )
    listener = Listener(
        name=name, address=address(at.host, at.port), filter_chains=[chain], traffic_direction=direction
    )
    needs = frozenset({(Kind.ROUTES, name), *((Kind.CLUSTER, cluster) for cluster in clusters)})
    return Resource(Kind.LISTENER, name, bytes(listener), needs)


def _filter(name: str, config: betterproto2.Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=packed(config))
