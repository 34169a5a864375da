"""Control planes behind one name, as containers have it, and an Envoy that listens to one of them at a time."""

import asyncio
import json
from collections.abc import Iterator

import grpc
import pytest

from tests.mesh.test_calls_survive import SERVICE, load
from tests.support.mesh import ControlPlane, Mesh, running_mesh
from tests.support.names import Names, name_server
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def names() -> Iterator[Names]:
    with name_server("controlplane") as names:
        names.addresses = ["127.0.0.2", "127.0.0.3"]
        yield names


@pytest.fixture(scope="module")
def several(names: Names) -> Iterator[Mesh]:
    """The third control plane is there, and its address not known yet."""
    with running_mesh(control_planes=3, names=names) as mesh:
        yield mesh


async def listened_to(mesh: Mesh, but: str = "") -> ControlPlane:
    """The control plane that Envoy listens to, as soon as it is another one than at this address."""

    async def look() -> str:
        try:
            address = await asyncio.to_thread(mesh.envoy.listens_to)
        except AssertionError:
            return ""
        return address if address != but else ""

    address = await eventually(look, "Envoy listens to a control plane")
    return next(one for one in mesh.controlplanes if one.address == address)


async def limited_to(mesh: Mesh, requests: int) -> None:
    """Returns when Envoy goes by this limit of the service's breaker."""

    async def look() -> bool:
        page = await asyncio.to_thread(mesh.envoy.asked, "clusters?format=json")
        for cluster in page.json()["cluster_statuses"]:
            if cluster["name"] == SERVICE:
                limits = {one.get("priority", "DEFAULT"): one for one in cluster["circuit_breakers"]["thresholds"]}
                return bool(limits["DEFAULT"]["max_requests"] == requests)
        return False

    await eventually(look, f"a limit of {requests}")


async def test_a_control_plane_that_goes_costs_no_call_and_the_other_tells_what_is_new(
    several: Mesh, names: Names
) -> None:
    options = [("grpc.default_authority", SERVICE)]
    async with (
        several.instances("a", "b", of=[SERVICE]),
        grpc.aio.insecure_channel(several.envoy.mesh, options=options) as peer,
        load(peer) as calls,
    ):
        first = await listened_to(several)
        await asyncio.to_thread(first.kill)
        async with several.policy(SERVICE, circuit_breaker={"max_requests": 77}):
            await limited_to(several, 77)
            second = await listened_to(several, but=first.address)
            await calls.more()

            names.addresses = ["127.0.0.4"]
            await asyncio.to_thread(second.kill)
            third = await listened_to(several, but=second.address)
            assert third.address.startswith("127.0.0.4:")
        await limited_to(several, 1024)
        await calls.more()
    assert not calls.failed
    told = [json.loads(line)["message"] for line in (third.folder / "log").read_text().splitlines()]
    assert "refused by Envoy" not in told
