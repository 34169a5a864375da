"""What every resource of its kind says, whatever the policy: each was learned from a call that was lost."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterLbPolicy
from envoy_data_plane.envoy.config.route.v3 import Route, RouteConfiguration
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptions

from services.controlplane.contract import Contract
from services.controlplane.model import Model, Seen
from services.controlplane.resources import HostPort, Resources, Surroundings
from services.controlplane.seeds import Seeds
from services.controlplane.snapshot import Kind, Snapshot
from services.files import resource

CONTRACT = Contract.read(resource("gen/descriptors.binpb").read_bytes())
SEEDS = Seeds.read(resource("etcd/seed"), CONTRACT.methods)
SURROUNDINGS = Surroundings(
    HostPort("127.0.0.1", 1), HostPort("127.0.0.1", 2), "http://issuer", "shop-api", "http://issuer/certs"
)
SEEDED = Seen({}, SEEDS.policies, {service: SEEDS.sampling_percent(service) for service in CONTRACT.services})
NEVER = timedelta(0)
DOCUMENTS = [
    b"{}",
    b'{"faults": [{"abort": "INTERNAL"}], "rate_limit": {"user": {"calls": 1}}, "retries": {"edge": 9}}',
    b'{"canary": {"weights": [{"version": "1", "weight": 1}]}, "load_balancing": "LOAD_BALANCING_RANDOM"}',
]


def told(document: bytes) -> Snapshot:
    """With this policy for all services."""
    policies = {service: SEEDS.policy(service, document) for service in CONTRACT.services}
    return Resources(CONTRACT, SURROUNDINGS).of(Model().see(replace(SEEDED, policies=policies), 0))


def routes(snapshot: Snapshot) -> list[Route]:
    tables = [RouteConfiguration.parse(body) for body in snapshot.bodies[Kind.ROUTES].values()]
    return [route for table in tables for host in table.virtual_hosts for route in host.routes]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_policy_changes_a_listener(document: bytes) -> None:
    # Connections that are open would not hear of it.
    assert told(document).bodies[Kind.LISTENER] == told(b"{}").bodies[Kind.LISTENER]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_call_has_a_time_limit_that_nobody_asked_for(document: bytes) -> None:
    # Unset, `timeout` is 15 s: streams would be cut, and slow calls look like an outage.
    carried = [
        route for route in routes(told(document)) if route.route and not route.name.endswith((" REST", " preflight"))
    ]
    assert len(carried) > len(CONTRACT.rpcs)
    for route in carried:
        action = route.route
        assert action is not None
        assert action.max_stream_duration is not None
        limits = (action.timeout, action.idle_timeout, action.max_stream_duration.grpc_timeout_header_max)
        assert limits == (NEVER, NEVER, NEVER), route.name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_balancing_ends_with_one_that_every_client_knows(document: bytes) -> None:
    # gRPC's own client refuses a cluster whose lb_policy is LEAST_REQUEST, and takes the first of a list that it knows.
    snapshot = told(document)
    for service in CONTRACT.services:
        cluster = Cluster.parse(snapshot.bodies[Kind.CLUSTER][service])
        assert cluster.lb_policy == ClusterLbPolicy.ROUND_ROBIN
        assert cluster.load_balancing_policy is not None
        last = cluster.load_balancing_policy.policies[-1].typed_extension_config
        assert last is not None
        assert last.name.endswith(".round_robin")


def test_as_many_streams_may_wait_for_a_connection_as_may_be_under_way() -> None:
    # Thousands of watchers come back at once when their instance has gone: 1024 waiting calls are too few for that.
    breaker = {"max_pending_requests": 1, "max_streams": 7}
    cluster = Cluster.parse(
        told(json.dumps({"circuit_breaker": breaker}).encode()).bodies[Kind.CLUSTER]["order/streams"]
    )
    assert cluster.circuit_breakers is not None
    (limits,) = cluster.circuit_breakers.thresholds
    assert (limits.max_requests, limits.max_pending_requests) == (7, 7)


def test_whoever_takes_the_spans_and_is_frozen_collects_no_requests() -> None:
    # Envoy gives its exports no time limit.
    cluster = Cluster.parse(told(b"{}").bodies[Kind.CLUSTER]["otlp"])
    assert cluster.circuit_breakers is not None
    (limits,) = cluster.circuit_breakers.thresholds
    assert (limits.max_requests, limits.max_pending_requests) == (8, 8)
    (options,) = cluster.typed_extension_protocol_options.values()
    http = HttpProtocolOptions.parse(options.value).explicit_http_config
    assert http is not None
    assert http.http2_protocol_options is not None
    assert http.http2_protocol_options.connection_keepalive is not None
