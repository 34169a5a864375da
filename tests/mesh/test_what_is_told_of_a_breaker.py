"""An instance that is out, and a service that nobody can reach: as lines of the log, as metrics, and for operators."""

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import grpc
import pytest

from services.cli.local.state import StateFolder
from tests.mesh.calls import call
from tests.mesh.test_calls_survive import NOT_IDEMPOTENT, SERVICE, peer
from tests.support.breaking import breaking
from tests.support.mesh import Mesh
from tests.support.refused import outcome
from tests.support.waiting import eventually

__all__ = ["peer"]


class Told:
    """What the control plane writes from now on."""

    def __init__(self, mesh: Mesh) -> None:
        self._log = mesh.controlplane.folder / "log"
        self._begin = self._log.stat().st_size

    async def line(self, event: str, **facts: str) -> None:
        """Returns when there is such a line about the service."""
        wanted = {"message": event, "of": SERVICE, **facts}

        async def look() -> bool:
            lines = self._log.read_bytes()[self._begin :].decode().splitlines()
            found = [json.loads(line) for line in lines if line.startswith("{")]
            return any(wanted.items() <= one.items() for one in found)

        await eventually(look, f"the log tells {wanted}")


async def test_the_log_tells_which_instance_is_out_and_back_and_that_none_is_left(bare_mesh: Mesh) -> None:
    async with bare_mesh.instances("a", "b", of=[SERVICE]) as (a, b):
        told = Told(bare_mesh)
        a.process.send_signal(signal.SIGSTOP)
        await told.line("instance is out", name="a", why="failing checks")
        b.process.send_signal(signal.SIGSTOP)
        await told.line("instance is out", name="b", why="failing checks")
        await told.line("breaker opened", why="no instance is well")
        a.process.send_signal(signal.SIGCONT)
        await told.line("breaker closed", why="no instance is well")
        await told.line("instance is back", name="a", why="failing checks")


async def test_the_log_tells_which_instance_is_ejected(bare_mesh: Mesh, peer: grpc.aio.Channel) -> None:
    told = Told(bare_mesh)

    async def flood() -> None:
        while True:
            await outcome(call(peer, NOT_IDEMPOTENT, timeout=5))
            await asyncio.sleep(0.01)

    async with breaking(bare_mesh.etcd.endpoint, SERVICE, "broken"):
        flooding = asyncio.create_task(flood())
        await told.line("instance is out", name="broken", why="ejected")
        flooding.cancel()
        await told.line("instance is back", name="broken", why="ejected")


async def test_operators_see_the_breaker_in_the_table_of_the_mesh(bare_mesh: Mesh, tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    ports = {"etcd": bare_mesh.etcd.port, "envoy-admin": bare_mesh.envoy.other_ports[1]}
    with folder.hold():
        envoy = {"name": "envoy", "state": "ready", "pid": None, "address": "", "started": 0}
        folder.write({"pid": os.getpid(), "ready": True, "ports": ports, "issuer": "", "parts": [envoy]})

        async def row(breaker: str, *instances: str) -> None:
            async def look() -> bool:
                command = [sys.executable, "-m", "services.cli", "mesh", "--once", "--state", str(tmp_path)]
                asked = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
                table = (await asked.communicate())[0].decode().partition(SERVICE)[2].partition("order ")[0]
                assert breaker in table, table
                assert all(re.search(instance, table) for instance in instances), table
                return asked.returncode == 0

            await eventually(look, f"the table says {breaker}")

        async with bare_mesh.instances("a", "b", of=[SERVICE]) as (a, b):
            await row("breaker closed", r"\n +a .*READY  ", r"\n +b .*READY  ")
            a.process.send_signal(signal.SIGSTOP)
            await row("breaker closed", r"\n +a .*READY, failing checks", r"\n +b .*READY  ")
            b.process.send_signal(signal.SIGSTOP)
            await row("breaker open: no instance is well", r"\n +b .*READY, failing checks")


@pytest.mark.usefixtures("mesh")
def test_every_metric_of_the_breaker_that_the_docs_name_is_there(bare_mesh: Mesh) -> None:
    docs = (Path(__file__).parents[2] / "docs/operating.md").read_text()
    section = docs.partition("\n## The breaker\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)*)`", section.partition("`cluster.SERVICE.`")[2]))
    stats = bare_mesh.envoy.asked("stats?filter=^cluster.product\\.").text
    there = {line.partition(": ")[0].removeprefix("cluster.product.") for line in stats.splitlines()}

    assert len(named) > 5
    assert named <= there
