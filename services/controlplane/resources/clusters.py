"""Clusters: how Envoy reaches a service, and which of its instances."""

from collections.abc import Mapping
from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    CircuitBreakersThresholdsRetryBudget,
    Cluster,
    ClusterCommonLbConfig,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
    ClusterEdsClusterConfig,
    LoadBalancingPolicy,
    LoadBalancingPolicyPolicy,
    OutlierDetection,
)
from envoy_data_plane.envoy.config.core.v3 import (
    AggregatedConfigSource,
    ApiVersion,
    ConfigSource,
    HealthCheck,
    HealthCheckGrpcHealthCheck,
    HealthStatus,
    Http2ProtocolOptions,
    KeepaliveSettings,
    TransportSocket,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    ClusterLoadAssignmentPolicy,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.load_balancing_policies.least_request.v3 import LeastRequest
from envoy_data_plane.envoy.extensions.load_balancing_policies.random.v3 import Random
from envoy_data_plane.envoy.extensions.load_balancing_policies.round_robin.v3 import RoundRobin
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import UpstreamTlsContext
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any
from mesh.v1 import policy_pb2

from services.controlplane import model
from services.controlplane.resources.encoding import NEVER, address, extension, packed
from services.controlplane.resources.stencils import BLANKS, NUMBER, field, stencil
from services.controlplane.resources.surroundings import HostPort, Server
from services.controlplane.resources.versions import cluster_name, in_order, versions_of
from services.controlplane.snapshot import Kind, Resource

CONTROL_PLANE = "controlplane"
"""The cluster of envoy/bootstrap.yaml; it answers reflection and health."""
JWKS = "jwks"
OTLP = "otlp"
ADS = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)

# A host that is gone, as of a container that was killed, does not even refuse: nothing but this time ends a try there.
# The most impatient caller gives up after a second. Linux sends its second SYN after one, so between the round trip and
# that no value is better for what is lost on the way.
_CONNECT_TIMEOUT = timedelta(milliseconds=200)
_CONNECT_OUTSIDE = timedelta(seconds=1)
# Whatever the budget: when one of two instances dies, half of all calls are tried again at the same moment. With
# the default of 3 some of them would fail.
_ALWAYS_RETRIED = 64
# In percent of what is well: the next group is for when nobody in this one is, not when a third is away.
_AS_LONG_AS_ONE_IS_WELL = 1_000_000
# In percent of what Envoy counts, two for each call: a good and a bad one if it breaks off, else two good ones.
_NEARLY_ALL_CALLS = 45
_IDLE_INTERVAL = timedelta(seconds=1)
_JITTER_PERCENT = 10
_EXPORTS = 8
"""Of all threads at once: each sends what it has gathered in a second."""
_ASKED_EVERY, _ANSWER_WITHIN = timedelta(seconds=5), timedelta(seconds=2)


def service_clusters(service: str, policy: policy_pb2.Policy, *, streams: bool) -> list[Resource]:
    """The instances of one service and of its versions, with limits, health checks and ejection.

    `streams`: whether it has streaming rpcs, which are counted apart.
    """
    return [
        _service_cluster(cluster_name(service, version, streaming=streaming), policy, streaming=streaming)
        for version in versions_of(policy.canary)
        for streaming in ((False, True) if streams else (False,))
    ]


def _service_cluster(name: str, policy: policy_pb2.Policy, *, streaming: bool) -> Resource:
    # Points would part the name of a statistic.
    body = _cluster(
        policy.circuit_breaker,
        policy.ejection,
        policy.health_check,
        policy.load_balancing,
        policy.retries.budget_percent,
        streaming=streaming,
    ).filled(name, name.replace(".", "_"))
    return Resource(Kind.CLUSTER, name, body, frozenset({(Kind.ASSIGNMENT, name)}))


@stencil
def _cluster(
    breaker: policy_pb2.CircuitBreaker,
    ejection: policy_pb2.Ejection,
    health_check: policy_pb2.HealthCheck,
    load_balancing: "policy_pb2.LoadBalancing.ValueType",
    budget_percent: float,
    *,
    streaming: bool,
) -> Cluster:
    name, stat_name, _ = BLANKS
    return Cluster(
        name=name,
        alt_stat_name=stat_name,
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=ADS),
        connect_timeout=_CONNECT_TIMEOUT,
        typed_extension_protocol_options=_http2(),
        load_balancing_policy=_balancing(load_balancing),
        common_lb_config=ClusterCommonLbConfig(
            # Otherwise Envoy sends calls to instances that drain or fail as soon as half of them do.
            healthy_panic_threshold=Percent(value=0),
            # Otherwise a health check that turns within a second of another change waits for the end of that second.
            update_merge_window=NEVER,
        ),
        circuit_breakers=_limits(breaker, budget_percent, streaming=streaming),
        outlier_detection=_ejection(ejection),
        health_checks=[_health_check(health_check)],
        # What has left the assignment gets no call more, also while its last health check was good.
        ignore_health_on_host_removal=True,
    )


def assignments(
    service: str, canary: policy_pb2.Canary, endpoints: Mapping[str, model.Endpoint], *, streams: bool
) -> list[Resource]:
    """Where the instances for each cluster of a service are, and which of them come first."""
    return [
        _assignment(cluster_name(service, version, streaming=streaming), in_order(version, canary, endpoints))
        for version in versions_of(canary)
        for streaming in ((False, True) if streams else (False,))
    ]


def _assignment(name: str, groups: list[list[model.Endpoint]]) -> Resource:
    """Empty is a valid answer, none would keep Envoy waiting."""
    body = _named(several=len(groups) > 1).filled(name)
    for priority, group in enumerate(groups):
        instances = b"".join(field(_INSTANCES_OF_A_GROUP, _instance(endpoint)) for endpoint in group)
        body += field(_GROUPS_OF_AN_ASSIGNMENT, _group(priority).filled() + instances)
    return Resource(Kind.ASSIGNMENT, name, body)


# Numbers of repeated fields, whose items are encoded one by one.
_GROUPS_OF_AN_ASSIGNMENT = 2
_INSTANCES_OF_A_GROUP = 2


@stencil
def _named(*, several: bool) -> ClusterLoadAssignment:
    policy = ClusterLoadAssignmentPolicy(overprovisioning_factor=_AS_LONG_AS_ONE_IS_WELL) if several else None
    return ClusterLoadAssignment(cluster_name=BLANKS[0], policy=policy)


@stencil
def _group(priority: int) -> LocalityLbEndpoints:
    return LocalityLbEndpoints(priority=priority)


def _instance(endpoint: model.Endpoint) -> bytes:
    at = HostPort.parse(endpoint.address)
    return _lb_endpoint(endpoint.state).filled(at.host, number=at.port)


@stencil
def _lb_endpoint(state: model.State) -> LbEndpoint:
    return LbEndpoint(
        endpoint=_endpoint(HostPort(BLANKS[0], NUMBER)),
        health_status=HealthStatus.DRAINING if state is model.State.DRAINING else HealthStatus.UNKNOWN,
    )


def jwks_cluster(jwks_url: str) -> Resource:
    """The issuer's keys."""
    return Resource(Kind.CLUSTER, JWKS, bytes(_outside(JWKS, Server.of(jwks_url))))


def otlp_cluster(endpoint: str | None) -> Resource:
    """Where spans go, by gRPC. Without an endpoint the cluster is empty.

    Envoy's tracer makes and continues trace ids, and insists on an exporter; one that reaches nobody drops its spans.
    """
    cluster = _outside(OTLP, Server.of(endpoint) if endpoint else None)
    # One that is frozen must not collect what is sent to it: Envoy sets these requests no time limit.
    limits = CircuitBreakersThresholds(max_requests=_EXPORTS, max_pending_requests=_EXPORTS)
    cluster.circuit_breakers = CircuitBreakers(thresholds=[limits])
    cluster.typed_extension_protocol_options = _http2(KeepaliveSettings(interval=_ASKED_EVERY, timeout=_ANSWER_WITHIN))
    return Resource(Kind.CLUSTER, OTLP, bytes(cluster))


def _outside(name: str, server: Server | None) -> Cluster:
    """One server, by its name in DNS; or none."""
    endpoints = [LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=_endpoint(server.at))])] if server else []
    cluster = Cluster(
        name=name,
        type=ClusterDiscoveryType.STRICT_DNS,
        dns_lookup_family=ClusterDnsLookupFamily.V4_PREFERRED,
        connect_timeout=_CONNECT_OUTSIDE,
        load_assignment=ClusterLoadAssignment(cluster_name=name, endpoints=endpoints),
    )
    if server and server.tls:
        cluster.transport_socket = TransportSocket(
            name="envoy.transport_sockets.tls", typed_config=packed(UpstreamTlsContext(sni=server.at.host))
        )
    return cluster


def _endpoint(at: HostPort) -> Endpoint:
    return Endpoint(address=address(at.host, at.port))


def _balancing(wanted: "policy_pb2.LoadBalancing.ValueType") -> LoadBalancingPolicy:
    """The first of the list that is known holds: gRPC's own client refuses `lb_policy: LEAST_REQUEST`, this never."""
    round_robin = extension("envoy.load_balancing_policies.round_robin", RoundRobin())
    least_request = extension("envoy.load_balancing_policies.least_request", LeastRequest())
    policies = {
        policy_pb2.LOAD_BALANCING_ROUND_ROBIN: [round_robin],
        policy_pb2.LOAD_BALANCING_RANDOM: [extension("envoy.load_balancing_policies.random", Random()), round_robin],
    }.get(wanted, [least_request, round_robin])
    return LoadBalancingPolicy(
        policies=[LoadBalancingPolicyPolicy(typed_extension_config=policy) for policy in policies]
    )


def _limits(breaker: policy_pb2.CircuitBreaker, budget_percent: float, *, streaming: bool) -> CircuitBreakers:
    most, waiting = breaker.max_requests, breaker.max_pending_requests
    if streaming:  # all streams of an instance that went away come back at once, and wait for one connection
        most = waiting = breaker.max_streams
    limits = CircuitBreakersThresholds(
        max_requests=most,
        max_pending_requests=waiting,
        retry_budget=CircuitBreakersThresholdsRetryBudget(
            budget_percent=Percent(value=budget_percent), min_retry_concurrency=_ALWAYS_RETRIED
        ),
    )
    return CircuitBreakers(thresholds=[limits])


def _ejection(ejection: policy_pb2.Ejection) -> OutlierDetection:
    """Only what Envoy itself saw fail counts: gRPC statuses map to HTTP, and an honest UNAVAILABLE must not eject."""
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=ejection.consecutive_failures,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_local_origin_success_rate=0,
        enforcing_consecutive_5xx=0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_success_rate=0,
        enforcing_failure_percentage=0,
        # Failures in a row are seen only where Envoy cannot connect: each try that has a connection, and over HTTP/2
        # there is always one, sets their count back. So the share in an interval counts as well.
        enforcing_failure_percentage_local_origin=100,
        failure_percentage_threshold=_NEARLY_ALL_CALLS,
        failure_percentage_minimum_hosts=1,
        failure_percentage_request_volume=ejection.consecutive_failures,
        max_ejection_percent=100,
        interval=ejection.interval.ToTimedelta(),
        base_ejection_time=ejection.base_ejection_time.ToTimedelta(),
        max_ejection_time=ejection.max_ejection_time.ToTimedelta(),
        # An instance whose health check answers while its calls time out would be back at once.
        successful_active_health_check_uneject_host=False,
    )


def _health_check(check: policy_pb2.HealthCheck) -> HealthCheck:
    return HealthCheck(
        interval=check.interval.ToTimedelta(),
        timeout=check.timeout.ToTimedelta(),
        unhealthy_threshold=check.unhealthy_threshold,
        healthy_threshold=check.healthy_threshold,
        # The default of 60 s would leave a service that nobody called yet unchecked for a minute.
        no_traffic_interval=max(_IDLE_INTERVAL, check.interval.ToTimedelta()),
        # Instances that came together would be asked together for ever: with thousands, Envoy does nothing else then.
        interval_jitter_percent=_JITTER_PERCENT,
        grpc_health_check=HealthCheckGrpcHealthCheck(),
    )


def _http2(keepalive: KeepaliveSettings | None = None) -> dict[str, Any]:
    return {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(
            HttpProtocolOptions(
                explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                    http2_protocol_options=Http2ProtocolOptions(connection_keepalive=keepalive)
                )
            )
        )
    }
