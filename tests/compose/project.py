"""The shop in containers, under a name and on ports of its own, by whichever Compose is here.

Containers, volumes and networks are found by the label that Compose gives them, not by what Compose prints: the two
Composes say it differently.
"""

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.support.ports import free_ports
from tests.support.waiting import DEADLINE_S, eventually

ROOT = Path(__file__).parents[2]
NAME = "shopmesh-test"
"""Always the same: what a run that was killed has left is found by the next."""
IMAGE, NEXT_IMAGE = "shopmesh:test", "shopmesh:test-next"
SERVICES = ("product", "order", "inventory", "notification")
PAIRS = (*SERVICES, "controlplane", "envoy")
"""What runs twice."""
START_S = 600.0
"""Keycloak builds itself anew at its first start, and the machine may be slow."""


class Missing(Exception):
    """What this machine lacks, and the mend."""


def compose_command() -> list[str]:
    """`docker compose`, else `docker-compose`; SHOPMESH_COMPOSE names another one. Raises Missing."""
    if chosen := os.environ.get("SHOPMESH_COMPOSE"):
        return shlex.split(chosen)
    if not shutil.which("docker"):
        raise Missing("there is no Docker here: Debian and Ubuntu have docker.io and docker-compose")
    engine = _run(["docker", "info", "--format", "{{.ServerVersion}}"])
    if engine.returncode:
        said = (engine.stderr or engine.stdout).strip().splitlines()[-1]
        raise Missing(f"the Docker engine does not answer ({said}): start it, or join the group `docker`")
    for words in (["docker", "compose", "version"], ["docker-compose", "--version"]):
        with suppress(FileNotFoundError):
            if _run(words).returncode == 0:
                return words[:-1]
    raise Missing("Compose is missing: install its plugin, or docker-compose 1.29")


@dataclass(frozen=True, slots=True)
class Container:
    """As it was when it was looked at."""

    id: str
    name: str
    service: str
    image: str
    status: str
    health: str
    exit_code: int
    pid: int
    addresses: Mapping[str, str]
    """By network, without the project's name."""
    ports: Mapping[int, int]
    """Where a port of the container is published."""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """`told` by `docker inspect`."""
        state, settings = told["State"], told["NetworkSettings"]
        return cls(
            told["Id"],
            told["Name"].removeprefix("/"),
            told["Config"]["Labels"]["com.docker.compose.service"],
            told["Config"]["Image"],
            state["Status"],
            state.get("Health", {}).get("Status", ""),
            state["ExitCode"],
            state["Pid"],
            {name.removeprefix(f"{NAME}_"): net["IPAddress"] for name, net in settings["Networks"].items()},
            {
                int(port.partition("/")[0]): int(bound[0]["HostPort"])
                for port, bound in settings["Ports"].items()
                if bound
            },
        )

    @property
    def well(self) -> bool:
        """Whether it does what it is for: it runs and is not unhealthy, or has done its one thing."""
        if self.status == "running":
            return self.health in {"", "healthy"}
        return self.status == "exited" and self.exit_code == 0


class Project:
    """The shop. Its commands are those of an operator, with the variables that compose.yaml documents."""

    def __init__(self) -> None:
        self.command = compose_command()
        self._under_way = set[subprocess.Popen[str]]()
        first = free_ports(5)
        self.keycloak, self.mail, self.telemetry = first + 2, first + 3, first + 4
        self.environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": NAME,
            "COMPOSE_FILE": str(ROOT / "compose.yaml"),
            "SHOPMESH_COMPOSE": shlex.join(self.command),
            "SHOPMESH_IMAGE": IMAGE,
            "SHOPMESH_IDENTITY": f"http://localhost:{self.keycloak}",
            "SHOPMESH_PORT_EDGE": f"{first}-{first + 1}",
            "SHOPMESH_PORT_KEYCLOAK": str(self.keycloak),
            "SHOPMESH_PORT_MAIL": str(self.mail),
            "SHOPMESH_PORT_TELEMETRY": str(self.telemetry),
        }

    @property
    def issuer(self) -> str:
        return f"{self.environment['SHOPMESH_IDENTITY']}/realms/shop"

    @property
    def token_url(self) -> str:
        return f"{self.issuer}/protocol/openid-connect/token"

    @property
    def edges(self) -> list[str]:
        """Where the Envoys that run now are published."""
        return sorted(f"127.0.0.1:{one.ports[8080]}" for one in self.containers("envoy") if 8080 in one.ports)

    def compose(self, *words: str, deadline_s: float = START_S) -> str:
        """What it prints. Raises AssertionError when it fails."""
        return self.run([*self.command, *words], deadline_s)

    def shopmesh(self, *words: str, deadline_s: float = START_S) -> str:
        """`docker compose run --rm -T shopmesh WORDS`, as the README has it. Raises AssertionError when it fails."""
        return self.compose("run", "--rm", "-T", "shopmesh", *words, deadline_s=deadline_s)

    def run(self, words: Sequence[str], deadline_s: float = START_S) -> str:
        """What any command prints, with the variables of this project. Raises AssertionError when it fails."""
        with subprocess.Popen(
            words, env=self.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            self._under_way.add(process)
            try:
                out, told = process.communicate(timeout=deadline_s)
            finally:
                process.kill()
                self._under_way.discard(process)
        assert process.returncode == 0, f"{shlex.join(words)}: {out[-4000:]}{told[-4000:]}"
        return out

    @contextmanager
    def image(self, name: str) -> Iterator[None]:
        """What is started meanwhile is of this image."""
        before = self.environment["SHOPMESH_IMAGE"]
        self.environment["SHOPMESH_IMAGE"] = name
        try:
            yield
        finally:
            self.environment["SHOPMESH_IMAGE"] = before

    async def start(self) -> None:
        """Two of each of PAIRS. Returns when all is well."""
        scale = [word for name in PAIRS for word in ("--scale", f"{name}=2")]
        for last in (False, False, True):
            try:
                await asyncio.to_thread(self.compose, "up", "--detach", "--no-build", *scale)
                break
            except AssertionError:  # a Compose gives up when a container is unhealthy for a moment, and can go on later
                if last:
                    raise
        await self.all_well(START_S)

    async def all_well(self, deadline_s: float = DEADLINE_S) -> None:
        """Raises AssertionError that names the containers that are not, with what they said last."""

        async def look() -> bool:
            containers = await asyncio.to_thread(self.containers)
            ailing = [f"{one.name} {one.status} {one.health} {one.exit_code}" for one in containers if not one.well]
            assert not ailing, "; ".join(ailing)
            return len(containers) > len(PAIRS)

        try:
            await eventually(look, "all containers are well", deadline_s)
        except AssertionError as error:
            ailing = [one for one in self.containers() if not one.well]
            said = "\n".join(f"--- {one.name}\n{self.said(one)}" for one in ailing)
            raise AssertionError(f"{error}\n{said}") from None

    def containers(self, service: str = "") -> list[Container]:
        """Of one service or of all, in the order of their names. Those of `compose run` do not count."""
        filters = [
            "label=com.docker.compose.oneoff=False",
            *([f"label=com.docker.compose.service={service}"] if service else []),
        ]
        ids = _ids("container", "ls", "--all", *(word for text in filters for word in ("--filter", text)))
        if not ids:
            return []
        told = _run(["docker", "inspect", *ids])  # one that has gone meanwhile is an error, and told of nevertheless
        return sorted(map(Container.of, json.loads(told.stdout)), key=lambda one: one.name)

    def said(self, one: Container, lines: int = 20) -> str:
        done = _run(["docker", "logs", "--tail", str(lines), one.id])
        return done.stdout + done.stderr

    def query(self, database: str, sql: str) -> list[list[str]]:
        """Rows of text, asked inside the container of PostgreSQL. Raises AssertionError while it does not answer."""
        [postgres] = self.containers("postgres")
        psql = ["psql", "-XAtq", "-F", "\t", "-U", "postgres", "-d", database, "-c", sql]
        lines = self.run(["docker", "exec", "--user", "postgres", postgres.id, *psql]).splitlines()
        return [line.split("\t") for line in lines]

    def remove(self) -> None:
        """All that has the name of the project, whoever has started it. A command that is under way ends first."""
        for process in list(self._under_way):
            process.kill()
            process.wait()
        for one in _ids("container", "ls", "--all"):
            _run(["docker", "rm", "--force", "--volumes", one])
        for kind in ("volume", "network"):
            for one in _ids(kind, "ls"):
                _run(["docker", kind, "rm", one])


def kill(one: Container) -> None:
    """SIGKILL to its process, as when it crashes: its restart policy brings it back.

    Where the process is out of reach (no root, an engine in a virtual machine) the engine kills it; then somebody has
    to start it again, which is done at once.
    """
    try:
        os.kill(one.pid, signal.SIGKILL)
    except (PermissionError, ProcessLookupError):
        _run(["docker", "kill", one.id])
        _run(["docker", "start", one.id])


def _ids(kind: str, *words: str) -> list[str]:
    label = f"label=com.docker.compose.project={NAME}"
    return _run(["docker", kind, *words, "--quiet", "--filter", label]).stdout.split()


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=START_S, check=False)
