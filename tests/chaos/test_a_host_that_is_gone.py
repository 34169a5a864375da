"""An instance whose address nobody answers any more, as that of a container that was killed: not even with a no."""

import grpc

from tests.mesh.test_calls_survive import SERVICE, load
from tests.support.mesh import running_mesh
from tests.support.proxy import proxy_to
from tests.support.registered import registered

CONNECT_TIMEOUTS = f"cluster.{SERVICE}.upstream_cx_connect_timeout"


async def test_an_instance_whose_host_is_gone_costs_no_call() -> None:
    with running_mesh() as mesh:
        options = [("grpc.default_authority", SERVICE)]
        async with (
            # What breaks off when it goes would have it ejected before anybody tried to connect.
            mesh.policy(SERVICE, ejection={"consecutive_failures": 1000}),
            mesh.instances("a", of=[SERVICE]),
            grpc.aio.insecure_channel(mesh.envoy.mesh, options=options) as peer,
        ):
            [a] = mesh.envoy.clusters()[SERVICE]
            async with proxy_to(a) as wire, registered(mesh.etcd.endpoint, SERVICE, "b", f"127.0.0.1:{wire.port}"):
                await mesh.healthy(SERVICE, 2)
                # The deadline of the most impatient service, Order, when it asks Inventory.
                async with load(peer, timeout=1) as calls:
                    await calls.more()

                    await wire.vanish()
                    await mesh.healthy(SERVICE, 1)
                    await calls.more()

                    assert mesh.envoy.number(CONNECT_TIMEOUTS) > 0
                    assert not calls.failed
