"""Whatever is put into a policy is in force while calls and streams go on."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor
from mesh.v1 import policy_pb2

from tests.mesh.calls import HealthWatch
from tests.mesh.test_calls_survive import SERVICE, load, peer
from tests.support.mesh import Mesh
from tests.support.waiting import eventually

__all__ = ["peer"]

KINDS = "dynamic_active_clusters", "dynamic_route_configs"
HEADER = {"name": "x-nobody", "value": "sends-it"}
RPC = "ListNotifications"
FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "retries.edge": ({"retries": {"edge": 9}}, '"num_retries":9'),
    "retries.mesh": ({"retries": {"mesh": 8}}, '"num_retries":8'),
    "retries.per_try_timeout": ({"retries": {"per_try_timeout": "7.777s"}}, '"per_try_timeout":"7.777s"'),
    "retries.budget_percent": ({"retries": {"budget_percent": 37}}, '"budget_percent":{"value":37}'),
    "circuit_breaker.max_requests": ({"circuit_breaker": {"max_requests": 7771}}, '"max_requests":7771'),
    "circuit_breaker.max_pending_requests": (
        {"circuit_breaker": {"max_pending_requests": 7772}},
        '"max_pending_requests":7772',
    ),
    "circuit_breaker.max_streams": ({"circuit_breaker": {"max_streams": 7773}}, '"max_requests":7773'),
    "ejection.consecutive_failures": (
        {"ejection": {"consecutive_failures": 77}},
        '"consecutive_local_origin_failure":77',
    ),
    "ejection.interval": ({"ejection": {"interval": "0.777s"}}, '"interval":"0.777s"'),
    "ejection.base_ejection_time": ({"ejection": {"base_ejection_time": "0.778s"}}, '"base_ejection_time":"0.778s"'),
    "ejection.max_ejection_time": ({"ejection": {"max_ejection_time": "7.779s"}}, '"max_ejection_time":"7.779s"'),
    "health_check.interval": ({"health_check": {"interval": "0.780s"}}, '"interval":"0.780s"'),
    "health_check.timeout": ({"health_check": {"timeout": "7.781s"}}, '"timeout":"7.781s"'),
    "health_check.unhealthy_threshold": ({"health_check": {"unhealthy_threshold": 78}}, '"unhealthy_threshold":78'),
    "health_check.healthy_threshold": ({"health_check": {"healthy_threshold": 2}}, '"healthy_threshold":2'),
    "rate_limit.user.calls": ({"rate_limit": {"user": {"calls": 771}}}, '"tokens_per_fill":771'),
    "rate_limit.user.per": ({"rate_limit": {"user": {"per": "772s"}}}, '"fill_interval":"772s"'),
    "rate_limit.user.burst": ({"rate_limit": {"user": {"burst": 773}}}, '"max_tokens":773'),
    "rate_limit.address.calls": ({"rate_limit": {"address": {"calls": 774}}}, '"tokens_per_fill":774'),
    "rate_limit.address.per": ({"rate_limit": {"address": {"per": "775s"}}}, '"fill_interval":"775s"'),
    "rate_limit.address.burst": ({"rate_limit": {"address": {"burst": 776}}}, '"max_tokens":776'),
    "load_balancing": ({"load_balancing": "LOAD_BALANCING_RANDOM"}, "load_balancing_policies.random"),
    "rpcs.timeout": ({"rpcs": {RPC: {"timeout": "77s"}}}, '"max_stream_duration":"77s"'),
    "rpcs.per_try_timeout": ({"rpcs": {RPC: {"per_try_timeout": "6.777s"}}}, '"per_try_timeout":"6.777s"'),
    "rpcs.edge": ({"rpcs": {RPC: {"edge": 7}}}, '"num_retries":7'),
    "rpcs.mesh": ({"rpcs": {RPC: {"mesh": 6}}}, '"num_retries":6'),
    "canary.weights.version": ({"canary": {"weights": [{"version": "v77", "weight": 1}]}}, f'"{SERVICE}@v77"'),
    "canary.weights.weight": ({"canary": {"weights": [{"version": "v78", "weight": 777}]}}, '"weight":777'),
    "canary.matches.version": ({"canary": {"matches": [{"version": "v79", "header": HEADER}]}}, f'"{SERVICE}@v79"'),
    "canary.matches.header.name": (
        {"canary": {"matches": [{"version": "v80", "header": {"name": "x-77", "value": "1"}}]}},
        '"name":"x-77"',
    ),
    "canary.matches.header.value": (
        {"canary": {"matches": [{"version": "v81", "header": {"name": "x", "value": "a-78"}}]}},
        '"exact":"a-78"',
    ),
    "faults.rpcs": ({"faults": [{"rpcs": [RPC], "header": HEADER, "delay": "0.171s"}]}, '"fixed_delay":"0.171s"'),
    "faults.header.name": (
        {"faults": [{"header": {"name": "x-79", "value": "1"}, "delay": "1s"}]},
        '"name":"x-79"',
    ),
    "faults.header.value": (
        {"faults": [{"header": {"name": "x", "value": "a-80"}, "delay": "1s"}]},
        '"exact":"a-80"',
    ),
    "faults.percent": ({"faults": [{"header": HEADER, "percent": 7.7, "delay": "1s"}]}, '"numerator":77000'),
    "faults.delay": ({"faults": [{"header": HEADER, "delay": "0.172s"}]}, '"fixed_delay":"0.172s"'),
    "faults.abort": ({"faults": [{"header": HEADER, "abort": "DATA_LOSS"}]}, '"grpc_status":15'),
}
"""A value of each, and what Envoy's configuration says then and does not say without it."""
OF_ANOTHER = {"circuit_breaker.max_streams": "order"}
"""Fields that have no effect on SERVICE, which has no streaming rpc."""


def leaves(message: Descriptor, before: str = "") -> Iterator[str]:
    for each in message.fields:
        inner = each.message_type
        if inner is not None and inner.GetOptions().map_entry:
            inner = inner.fields_by_name["value"].message_type
        if inner is None or inner.file.package.startswith("google"):
            yield before + each.name
        else:
            yield from leaves(inner, f"{before}{each.name}.")


def test_every_field_has_its_row() -> None:
    assert FIELDS.keys() == set(leaves(policy_pb2.Policy.DESCRIPTOR))


def configured(mesh: Mesh) -> str:
    """What Envoy goes by, without blanks."""
    pages = [mesh.envoy.asked(f"config_dump?resource={kind}").json() for kind in KINDS]
    return json.dumps(pages, separators=(",", ":"))


async def test_every_field_is_live_and_costs_no_call_and_no_stream(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    async with bare_mesh.instances("a", "b", of=[SERVICE]), load(peer) as calls:
        watch = HealthWatch(peer, "")
        assert await watch.next() == 1
        before = configured(bare_mesh)
        for field, (document, says) in FIELDS.items():
            assert says not in before, field
            async with bare_mesh.policy(OF_ANOTHER.get(field, SERVICE), **document):

                async def look(says: str = says) -> bool:
                    return says in configured(bare_mesh)

                await eventually(look, f"{field} is in force")
                await calls.more(20)
        assert not calls.failed
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.next(), 0.1)
        watch.end()
