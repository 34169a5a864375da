"""A real Envoy takes whatever registry and policies make; what it refuses is told with its field, and harms nothing."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType
from envoy_data_plane.envoy.config.route.v3 import Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from deploy.manifests import documents
from services.chassis.documents import DocumentRefused
from services.controlplane.model import Endpoint, Model, State
from services.controlplane.resources import Resources
from services.controlplane.snapshot import Kind, Resource, Snapshot
from tests.support.surroundings import CHECKOUT
from tests.support.told import CONTRACT, NOTHING, SEEDS, Told, told_envoy
from tests.support.waiting import eventually


def durations(least: str, most: str) -> st.SearchStrategy[str]:
    return st.sampled_from([least, "1.5s", most])


def some_of(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of these fields, or none."""
    return st.fixed_dictionaries({}, optional=fields)


numbers = st.sampled_from([1, 1_000_000])
versions = st.sampled_from(["1", "2.0", "a_b+c-d"])
headers = st.fixed_dictionaries({"name": st.sampled_from(["x-one", "x-two"]), "value": st.sampled_from(["1", " a~ "])})
bucket = some_of(calls=st.sampled_from([0, 1, 1_000_000]), per=durations("0.05s", "3600s"), burst=numbers)
rpc = some_of(
    timeout=durations("0.001s", "3600s"),
    per_try_timeout=durations("0.001s", "60s"),
    edge=st.sampled_from([0, 10]),
    mesh=st.sampled_from([0, 10]),
)
faults = st.fixed_dictionaries(
    {"abort": st.sampled_from(["INTERNAL", "UNAUTHENTICATED"])},
    optional={"header": headers, "percent": st.sampled_from([0, 0.001, 100]), "delay": durations("0.001s", "60s")},
)
policies = some_of(
    retries=some_of(
        edge=st.sampled_from([0, 10]),
        mesh=st.sampled_from([0, 10]),
        per_try_timeout=durations("0.001s", "60s"),
        budget_percent=st.sampled_from([0, 0.5, 100]),
    ),
    circuit_breaker=some_of(max_requests=numbers, max_pending_requests=numbers, max_streams=numbers),
    ejection=some_of(
        consecutive_failures=st.sampled_from([1, 1000]),
        interval=durations("0.001s", "60s"),
        base_ejection_time=durations("0.001s", "300s"),
        max_ejection_time=durations("0.001s", "300s"),
    ),
    health_check=some_of(
        interval=durations("0.01s", "300s"),
        timeout=durations("0.01s", "60s"),
        unhealthy_threshold=st.sampled_from([1, 100]),
        healthy_threshold=st.sampled_from([1, 100]),
    ),
    rate_limit=some_of(user=bucket, address=bucket),
    load_balancing=st.sampled_from(["LOAD_BALANCING_ROUND_ROBIN", "LOAD_BALANCING_RANDOM"]),
    canary=some_of(
        weights=st.lists(
            st.fixed_dictionaries({"version": versions, "weight": st.sampled_from([0, 1, 1000])}), max_size=3
        ),
        matches=st.lists(st.fixed_dictionaries({"version": versions, "header": headers}), max_size=3),
    ),
    faults=st.lists(faults, max_size=2),
)
addresses = st.sampled_from([*(f"127.0.0.1:{port}" for port in (1, 2, 65535)), "[::1]:3"])
instances = st.dictionaries(
    st.sampled_from("abc"),
    st.builds(Endpoint, addresses, st.sampled_from(State), versions, st.integers(0, 3).map(float)),
)
services = st.sampled_from(CONTRACT.services)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("endpoints"), services, instances),
        st.tuples(st.just("policies"), services, policies),
        st.tuples(st.just("rpcs"), services, rpc),
        st.tuples(st.just("sampling"), services, st.sampled_from([0.0, 0.01, 50.0])),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
async def told(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Told]:
    async with told_envoy(tmp_path_factory.mktemp("envoy")) as told:
        yield told


# Each shrinking of a failure takes as long as Envoy takes to show it.
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[*HealthCheck],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(changes)
async def test_whatever_registry_and_policies_say_envoy_takes_it_as_if_it_were_told_anew(
    told: Told, history: list[tuple[str, str, Any]]
) -> None:
    model, seen = Model().see(NOTHING, 0), NOTHING
    for at, (what, service, value) in enumerate(history):
        match what:
            case "endpoints":
                seen = replace(seen, endpoints={**seen.endpoints, service: value})
            case "sampling":
                seen = replace(seen, sampling={**seen.sampling, service: value})
            case _:
                method = CONTRACT.of(service)[0].method
                document = value if what == "policies" else {"rpcs": {method: value}}
                try:
                    policy = SEEDS.policy(service, orjson.dumps(document))
                except DocumentRefused:
                    assume(False)
                seen = replace(seen, policies={**seen.policies, service: policy})
        model = model.see(seen, at * 4.0)
        told.snapshots.put(told.resources.of(model))
        # Sometimes Envoy hears of several at once.
        await asyncio.sleep(0)

    anew = Resources(CONTRACT, told.surroundings).of(model)
    assert told.resources.of(model).versions == anew.versions
    await told.has(anew)
    for service in CONTRACT.services:
        # Envoy writes addresses of IPv6 without brackets.
        assert told.sends_to(service) == {re.sub(r"[][]", "", at.address) for at in model.of(service).values()}


# As a mistake in resources/ would make them.
BAD_CLUSTER = Cluster(name="product", type=ClusterDiscoveryType.EDS, connect_timeout=timedelta(0))
BAD_TABLE = RouteConfiguration(
    name="mesh",
    virtual_hosts=[
        VirtualHost(
            name="a", domains=["a"], routes=[Route(match=RouteMatch(prefix="/"), route=RouteAction(cluster=""))]
        )
    ],
)
BAD = [
    (
        Resource(Kind.CLUSTER, "product", bytes(BAD_CLUSTER), frozenset({(Kind.ASSIGNMENT, "product")})),
        "ConnectTimeout",
    ),
    (Resource(Kind.ROUTES, "mesh", bytes(BAD_TABLE)), "Cluster"),
]


def assignments_of(snapshot: Snapshot, cluster: Resource) -> list[Resource]:
    """That come with a cluster."""
    return [Resource(kind, name, snapshot.bodies[kind][name]) for kind, name in cluster.needs]


@pytest.mark.parametrize(("bad", "field"), BAD, ids=["cluster", "routes"])
async def test_what_envoy_refuses_is_told_with_its_field_and_the_last_good_stays(
    told: Told, bad: Resource, field: str
) -> None:
    good = told.resources.of(Model().see(NOTHING, 0))
    told.snapshots.put(good)
    await told.has(good)
    before = await asyncio.to_thread(told.contents)

    instances = {"a": Endpoint("127.0.0.1:7")}
    moved = told.resources.of(Model().see(replace(NOTHING, endpoints={"order": instances}), 0))
    told.snapshots.put(moved.with_([bad, *assignments_of(moved, bad)]))

    async def refused() -> bool:
        return len(told.refusals) == 1

    await eventually(refused, "Envoy refuses it")
    (refusal,) = told.refusals
    assert (refusal.kind, refusal.names) == (bad.kind, (bad.name,))
    assert field in refusal.detail

    async def goes_on() -> bool:
        return await asyncio.to_thread(told.sends_to, "order") == {"127.0.0.1:7"}

    await eventually(goes_on, "what is good arrives all the same")
    assert await asyncio.to_thread(told.contents) == before

    told.snapshots.put(moved)

    async def well() -> bool:
        return not told.refusals

    await eventually(well, "nothing is refused any more")


def prestop(admin_port: int) -> list[str]:
    """What is run in Envoy's pod before it ends: with the admin page at another port, and without the pauses."""
    envoy = next(found for found in documents(CHECKOUT / "deploy/kubernetes/base/envoy.yaml") if found.pod)
    command: list[str] = envoy.containers[-1]["lifecycle"]["preStop"]["exec"]["command"]
    return [re.sub(r"sleep \d+", ":", part).replace("127.0.0.1/9901", f"127.0.0.1/{admin_port}") for part in command]


# The last: this Envoy is of no further use.
async def test_before_its_pod_ends_callers_are_sent_away_and_latecomers_still_served(told: Told) -> None:
    edge = f"http://{told.envoy.edge}"
    async with httpx.AsyncClient(base_url=edge) as connected, httpx.AsyncClient(base_url=edge) as late:
        assert "connection" not in (await connected.get("/v1/nothing")).headers

        command = prestop(told.envoy.other_ports[1])
        await asyncio.to_thread(subprocess.run, command, check=True, timeout=30)
        assert told.envoy.asked("server_info").json()["state"] == "DRAINING"

        async def sent_away() -> bool:
            answer = await connected.get("/v1/nothing")
            return bool(answer.headers.get("connection") == "close")

        await eventually(sent_away, "an answer says that the connection ends")
        assert (await late.get("/v1/nothing")).status_code == 404
