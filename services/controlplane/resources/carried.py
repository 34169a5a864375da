"""How the calls of one rpc are carried, by its policy: to which version, with which faults, tried again or not.

An rpc takes one route, and one more for each header that the policy treats in another way.
"""

from collections.abc import Iterator
from dataclasses import dataclass
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
from mesh.v1 import policy_pb2

from services.controlplane.contract import Rpc
from services.controlplane.resources.encoding import NEVER, packed
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
class Retries:
    """Never on a gRPC status: a refusal is the caller's."""

    conditions: str
    times: int
    per_try_timeout: timedelta | None = None
    elsewhere: bool = False
    """Of several versions another one is tried."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How some calls are carried, without a name that another service would not have."""

    headers: tuple[tuple[str, str], ...] = ()
    """That set them apart from the others."""
    shares: tuple[tuple[str, int], ...] = ()
    """Clusters with weights; empty where all go to one."""
    retries: Retries | None = None
    time_limit: timedelta = NEVER


@dataclass(frozen=True, slots=True)
class Carried:
    """Some calls of an rpc, and what a route does with them."""

    name: str
    """What sets them apart from the others, for the name of the route; empty for all that no header sets apart."""
    cluster: str
    """Where they go, unless the terms have shares."""
    terms: Terms
    fault: policy_pb2.Fault | None = None


def carried(service: str, rpc: Rpc | None, policy: policy_pb2.Policy, way: Way) -> Iterator[Carried]:
    """The calls of an rpc, those that a header sets apart first. None: what the contract does not know."""
    retries = _retries(rpc, policy, way)
    time_limit = _time_limit(policy.rpcs[rpc.method]) if rpc and rpc.method in policy.rpcs else NEVER
    streaming = rpc is not None and rpc.streaming
    shares = tuple(
        (cluster_name(service, each.version, streaming=streaming), each.weight) for each in policy.canary.weights
    )
    if not any(weight for _, weight in shares):
        shares = ()
    for fault_name, fault_headers, fault in _faults(rpc, policy):
        for match in policy.canary.matches:
            terms = Terms((*fault_headers, _pair(match.header)), (), retries, time_limit)
            cluster = cluster_name(service, match.version, streaming=streaming)
            yield Carried(f"{fault_name} to {match.version}", cluster, terms, fault)
        terms = Terms(fault_headers, shares, retries, time_limit)
        yield Carried(fault_name, cluster_name(service, streaming=streaming), terms, fault)


def action(cluster: str, terms: Terms) -> RouteAction:
    """No time limit but the caller's own: Envoy's default of 15 s would cut streams and look like an outage."""
    weighted = [WeightedClusterClusterWeight(name=name, weight=weight) for name, weight in terms.shares]
    return RouteAction(
        cluster=None if weighted else cluster,
        weighted_clusters=WeightedCluster(clusters=weighted) if weighted else None,
        timeout=NEVER,
        idle_timeout=NEVER,
        # Unlike `timeout`, it ends a call with DEADLINE_EXCEEDED. It holds for callers without a deadline, the cap for
        # those with one.
        max_stream_duration=RouteActionMaxStreamDuration(
            max_stream_duration=terms.time_limit, grpc_timeout_header_max=terms.time_limit
        ),
        retry_policy=_retry_policy(terms.retries) if terms.retries else None,
    )


def header_matchers(terms: Terms) -> list[HeaderMatcher]:
    """For the match of the route."""
    return [HeaderMatcher(name=name, string_match=StringMatcher(exact=value)) for name, value in terms.headers]


def _faults(
    rpc: Rpc | None, policy: policy_pb2.Policy
) -> Iterator[tuple[str, tuple[tuple[str, str], ...], policy_pb2.Fault | None]]:
    """The faults of an rpc, those for a header first; in the end what happens to all others."""
    for_all: policy_pb2.Fault | None = None
    for number, fault in enumerate(policy.faults):
        if rpc is None or (fault.rpcs and rpc.method not in fault.rpcs):
            continue
        if not fault.HasField("header"):
            for_all = fault
            break
        yield f" fault {number}", (_pair(fault.header),), fault
    yield "", (), for_all


def _time_limit(rpc: policy_pb2.RpcPolicy) -> timedelta:
    return rpc.timeout.ToTimedelta() if rpc.HasField("timeout") else NEVER


def _retries(rpc: Rpc | None, policy: policy_pb2.Policy, way: Way) -> Retries:
    own = policy.rpcs[rpc.method] if rpc and rpc.method in policy.rpcs else policy_pb2.RpcPolicy()
    times: int = getattr(own if own.HasField(way.value) else policy.retries, way.value)
    # A version of one instance, which just broke, would be tried again and again: the next try goes to another.
    elsewhere = policy.HasField("canary")
    if rpc and rpc.idempotent and not rpc.streaming:
        limit = own.per_try_timeout if own.HasField("per_try_timeout") else policy.retries.per_try_timeout
        return Retries(_AFTER_ANY_BREAK, times, limit.ToTimedelta(), elsewhere)
    return Retries(_BEFORE_ANYTHING_RAN, times, None, elsewhere)


def _retry_policy(retries: Retries) -> RetryPolicy:
    policy = RetryPolicy(
        retry_on=retries.conditions,
        num_retries=retries.times,
        per_try_timeout=retries.per_try_timeout,
        retry_back_off=_BACK_OFF,
        # Another instance, if there is one.
        retry_host_predicate=[
            RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts", typed_config=packed(PreviousHostsPredicate())
            )
        ],
        host_selection_retry_max_attempts=_DRAWS,
    )
    if retries.elsewhere:
        policy.retry_priority = RetryPolicyRetryPriority(
            name="envoy.retry_priorities.previous_priorities",
            typed_config=packed(PreviousPrioritiesConfig(update_frequency=1)),
        )
    return policy


def _pair(header: policy_pb2.HeaderMatch) -> tuple[str, str]:
    return header.name, header.value
