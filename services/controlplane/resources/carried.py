"""How the calls of one rpc are carried, by its policy: to which version, with which faults, tried again or not.

An rpc takes one route, and one more for each header that the policy treats in another way.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum

from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    RetryPolicy,
    RetryPolicyRetryBackOff,
    RetryPolicyRetryHostPredicate,
    RetryPolicyRetryPriority,
    RouteAction,
    RouteActionMaxStreamDuration,
    WeightedCluster,
    WeightedClusterClusterWeight,
)
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.envoy.extensions.retry.priority.previous_priorities.v3 import PreviousPrioritiesConfig
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any
from mesh.v1 import policy_pb2

from services.controlplane.contract import Rpc
from services.controlplane.resources.encoding import NEVER, packed
from services.controlplane.resources.faults import made
from services.controlplane.resources.versions import cluster_name


class Way(Enum):
    """By which listener a call comes."""

    EDGE = "edge"
    MESH = "mesh"


# The request may have been carried out: for idempotent rpcs only. A per-try timeout counts as a reset.
_AFTER_ANY_BREAK = "reset,connect-failure,refused-stream"
# The request surely was not carried out.
_BEFORE_ANYTHING_RAN = "connect-failure,refused-stream"
# Until another instance is drawn. One that died has the fewest calls under way, so it is the first choice of every draw
# that it is part of: with two instances that is three of four.
_DRAWS = 50
# Three tries wait less than 40 ms together: a caller whose service is down learns it in less than 50.
_BACK_OFF = RetryPolicyRetryBackOff(base_interval=timedelta(milliseconds=10), max_interval=timedelta(milliseconds=100))


@dataclass(frozen=True, slots=True)
class Carried:
    """Some calls of an rpc, and what a route does with them."""

    name: str
    """What sets them apart from the others, for the name of the route; empty for all that no header sets apart."""
    headers: list[HeaderMatcher]
    action: RouteAction
    filters: dict[str, Any] = field(default_factory=dict[str, Any])


def carried(service: str, rpc: Rpc | None, policy: policy_pb2.Policy, way: Way) -> Iterator[Carried]:
    """The calls of an rpc, those that a header sets apart first. None: what the contract does not know."""
    retry_policy = _retries(rpc, policy, way)
    time_limit = _time_limit(policy.rpcs[rpc.method]) if rpc and rpc.method in policy.rpcs else NEVER
    streaming = rpc is not None and rpc.streaming

    def action(version: str) -> RouteAction:
        action = to_cluster(cluster_name(service, version, streaming=streaming), retry_policy, time_limit)
        if not version and any(each.weight for each in policy.canary.weights):
            action.cluster, action.weighted_clusters = None, _weighted(service, policy.canary, streaming=streaming)
        return action

    for fault_name, fault_headers, filters in _faults(rpc, policy):
        for match in policy.canary.matches:
            headers = [*fault_headers, _carries(match.header)]
            yield Carried(f"{fault_name} to {match.version}", headers, action(match.version), filters)
        yield Carried(fault_name, fault_headers, action(""), filters)


def to_cluster(cluster: str, retry_policy: RetryPolicy | None, time_limit: timedelta = NEVER) -> RouteAction:
    """No time limit but the caller's own: Envoy's default of 15 s would cut streams and look like an outage."""
    return RouteAction(
        cluster=cluster,
        timeout=NEVER,
        idle_timeout=NEVER,
        # Unlike `timeout`, it ends a call with DEADLINE_EXCEEDED. It holds for callers without a deadline, the cap for
        # those with one.
        max_stream_duration=RouteActionMaxStreamDuration(
            max_stream_duration=time_limit, grpc_timeout_header_max=time_limit
        ),
        retry_policy=retry_policy,
    )


def _faults(rpc: Rpc | None, policy: policy_pb2.Policy) -> Iterator[tuple[str, list[HeaderMatcher], dict[str, Any]]]:
    """The faults of an rpc, those for a header first; in the end what happens to all others."""
    for_all: dict[str, Any] = {}
    for number, fault in enumerate(policy.faults):
        if rpc is None or (fault.rpcs and rpc.method not in fault.rpcs):
            continue
        if not fault.HasField("header"):
            for_all = made(fault)
            break
        yield f" fault {number}", [_carries(fault.header)], made(fault)
    yield "", [], for_all


def _weighted(service: str, canary: policy_pb2.Canary, *, streaming: bool) -> WeightedCluster:
    return WeightedCluster(
        clusters=[
            WeightedClusterClusterWeight(
                name=cluster_name(service, each.version, streaming=streaming), weight=each.weight
            )
            for each in canary.weights
        ]
    )


def _time_limit(rpc: policy_pb2.RpcPolicy) -> timedelta:
    return rpc.timeout.ToTimedelta() if rpc.HasField("timeout") else NEVER


def _retries(rpc: Rpc | None, policy: policy_pb2.Policy, way: Way) -> RetryPolicy:
    """Never on a gRPC status: a refusal is the caller's."""
    own = policy.rpcs[rpc.method] if rpc and rpc.method in policy.rpcs else policy_pb2.RpcPolicy()
    times: int = getattr(own if own.HasField(way.value) else policy.retries, way.value)
    if rpc and rpc.idempotent and not rpc.streaming:
        limit = own.per_try_timeout if own.HasField("per_try_timeout") else policy.retries.per_try_timeout
        retry = _retry(_AFTER_ANY_BREAK, times, limit.ToTimedelta())
    else:
        retry = _retry(_BEFORE_ANYTHING_RAN, times)
    if policy.HasField("canary"):
        # A version of one instance, which just broke, would be tried again and again: the next try goes to another.
        retry.retry_priority = RetryPolicyRetryPriority(
            name="envoy.retry_priorities.previous_priorities",
            typed_config=packed(PreviousPrioritiesConfig(update_frequency=1)),
        )
    return retry


def _retry(conditions: str, times: int, per_try_timeout: timedelta | None = None) -> RetryPolicy:
    return RetryPolicy(
        retry_on=conditions,
        num_retries=times,
        per_try_timeout=per_try_timeout,
        retry_back_off=_BACK_OFF,
        # Another instance, if there is one.
        retry_host_predicate=[
            RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts", typed_config=packed(PreviousHostsPredicate())
            )
        ],
        host_selection_retry_max_attempts=_DRAWS,
    )


def _carries(header: policy_pb2.HeaderMatch) -> HeaderMatcher:
    return HeaderMatcher(name=header.name, string_match=StringMatcher(exact=header.value))
