"""A whole shop of its own, started as a user would start it, and the ways in which a user talks to it."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from services.chassis.etcd import Etcd
from services.cli.local.stack import remove
from tests.support.ports import free_ports
from tests.support.waiting import DEADLINE_S

READY_WITHIN_S = 300.0
"""The first start of all downloads and builds Keycloak."""


@dataclass(frozen=True, slots=True)
class Shop:
    """A stack that runs in `state`."""

    state: Path
    supervisor: subprocess.Popen[str]
    said: list[str]

    def command(self, *words: str, check: bool = True, deadline_s: float = DEADLINE_S, elsewhere: bool = False) -> str:
        """What `shopmesh WORDS` prints. Raises AssertionError when it fails, unless told not to check.

        `elsewhere`: as in a container beside the shop, told by its environment and without the folder.
        """
        where = self.elsewhere if elsewhere else {"SHOPMESH_STATE": str(self.state)}
        done = subprocess.run(
            [sys.executable, "-m", "services.cli", *words],
            env={**os.environ, **where},
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"shopmesh {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    @property
    def elsewhere(self) -> dict[str, str]:
        """What the environment of a command has to tell that does not know the folder."""
        at = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        return {
            "SHOPMESH_STATE": "/nowhere",
            "SHOPMESH_EDGE": at["edge"],
            "SHOPMESH_MESH": at["mesh"],
            "SHOPMESH_ETCD": at["etcd"],
            "SHOPMESH_ENVOY_ADMIN": at["envoy-admin"],
            "SHOPMESH_POSTGRES": at["postgres"],
            "SHOPMESH_NATS_URL": f"nats://{at['nats']}",
            "SHOPMESH_MAIL": at["mail"],
            "SHOPMESH_TELEMETRY": at["telemetry"],
            "SHOPMESH_ISSUER": self.issuer,
        }

    def parts(self) -> dict[str, dict[str, Any]]:
        """The rows of `status --json`, by name."""
        return {row["name"]: row for row in json.loads(self.command("status", "--json", check=False))}

    def address(self, part: str) -> str:
        return str(self.parts()[part]["address"])

    @property
    def ports(self) -> Mapping[str, int]:
        ports: dict[str, int] = json.loads((self.state / "stack.json").read_text())["ports"]
        return ports

    @property
    def edge(self) -> str:
        return f"127.0.0.1:{self.ports['edge']}"

    @property
    def mail(self) -> str:
        return f"http://127.0.0.1:{self.ports['mail']}"

    @property
    def pages(self) -> str:
        """Where its telemetry is looked at."""
        return f"http://127.0.0.1:{self.ports['telemetry']}"

    @property
    def issuer(self) -> str:
        return f"http://localhost:{self.ports['keycloak']}/realms/shop"

    def database(self, service: str) -> str:
        return f"postgresql://audit@127.0.0.1:{self.ports['postgres']}/{service}"

    def token(self, user: str) -> str:
        return self.command("token", user).strip()

    def service_token(self, service: str) -> str:
        """The service's own, for its own secret."""
        form = {"grant_type": "client_credentials", "client_id": service}
        form["client_secret"] = (self.state / "secrets" / service).read_text()
        answer = httpx.post(f"{self.issuer}/protocol/openid-connect/token", data=form, trust_env=False, timeout=60)
        return str(answer.raise_for_status().json()["access_token"])


@contextmanager
def running_shop(state: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Shop]:
    """`shopmesh up` with ports of its own, from the moment it is ready until it has stopped."""
    with started_shop(state, *options, environment=environment) as shop:
        yield shop
        stop(shop)
        remove(state)


@contextmanager
def started_shop(state: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Shop]:
    """The same for a test that ends it in its own way; a shop that still runs at the end is killed."""
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "up", "--ports-from", str(free_ports(16)), *options],
        env={**os.environ, "SHOPMESH_STATE": str(state), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    try:
        _wait_until_ready(supervisor, said)
        yield Shop(state, supervisor, said)
    finally:
        if supervisor.poll() is None:
            supervisor.kill()
        supervisor.wait()


def stop(shop: Shop) -> float:
    """Ctrl-C. Returns how many seconds the shop took to stop."""
    begun = time.monotonic()
    shop.supervisor.send_signal(signal.SIGINT)
    shop.supervisor.wait(DEADLINE_S)
    return time.monotonic() - begun


async def put(shop: Shop, key: str, document: str) -> None:
    """Writes to etcd past the command, so unchecked."""
    etcd = Etcd(f"127.0.0.1:{shop.ports['etcd']}")
    await etcd.put(key, document.encode())
    await etcd.close()


def _wait_until_ready(supervisor: subprocess.Popen[str], said: list[str]) -> None:
    ready: queue.Queue[bool] = queue.Queue()

    def listen() -> None:
        assert supervisor.stdout is not None
        with supervisor.stdout as lines:
            for line in lines:
                said.append(line.rstrip())
                if "is ready" in line:
                    ready.put(True)
        ready.put(False)

    threading.Thread(target=listen, daemon=True).start()
    try:
        assert ready.get(timeout=READY_WITHIN_S), "shopmesh up ended:\n" + "\n".join(said)
    except queue.Empty:
        raise AssertionError("shopmesh up is not ready:\n" + "\n".join(said)) from None
