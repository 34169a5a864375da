"""A service as its callers see it: within the test, with all that the chassis puts around its rpcs, or as a process."""

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import override

import grpc
import httpx

from services.chassis.auth import Keys, Rule, Tokens
from services.chassis.interceptors import Around
from services.chassis.server import Add, add_guarded, guarded_server
from tests.support.etcd import EtcdServer
from tests.support.issuer import AUDIENCE, Issuer
from tests.support.servers import Server

type Metadata = Sequence[tuple[str, str]]


def bearing(token: str) -> Metadata:
    """Metadata of a call with this token."""
    return (("authorization", f"Bearer {token}"),)


@asynccontextmanager
async def serving[S](add_servicer_to_server: Add[S], servicer: S, issuer: Issuer) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the servicer, which trusts the issuer."""
    async with (
        serving_at(add_servicer_to_server, servicer, issuer) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield channel


@asynccontextmanager
async def serving_at[S](
    add_servicer_to_server: Add[S], servicer: S, issuer: Issuer, default_s: float = 60.0
) -> AsyncIterator[str]:
    """The address of the servicer, for a channel of one's own. `default_s`: the default deadline."""
    async with guarded_at(add_servicer_to_server, servicer, issuer, default_s) as (address, _):
        yield address


@asynccontextmanager
async def guarded_at[S](
    add_servicer_to_server: Add[S], servicer: S, issuer: Issuer, default_s: float = 60.0
) -> AsyncIterator[tuple[str, Around]]:
    """The same, and what stands around its calls."""
    rules: dict[str, Rule] = {}
    async with httpx.AsyncClient(trust_env=False) as http:
        tokens = Tokens(Keys(issuer.jwks_url, http), issuer.url, AUDIENCE)
        server, around = guarded_server("shop", tokens, rules, lambda: default_s)
        rules.update(add_guarded(server, around, add_servicer_to_server, servicer))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}", around
        finally:
            await server.stop(None)


class ServiceProcess(Server):
    """`python -m services.<service>`, found by its port; `address` is where it is called."""

    def __init__(self, service: str, folder: Path, **environment: str) -> None:
        super().__init__(folder)
        self._service = service
        self._environment = {"LISTEN": self.address, "STATE_DIR": str(folder), **environment}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @override
    def command(self) -> Sequence[str | Path]:
        variables = [f"SHOPMESH_{name}={value}" for name, value in self._environment.items()]
        return ["env", *variables, sys.executable, "-m", f"services.{self._service}"]


@contextmanager
def running_service(
    service: str, *, database_url: str, etcd: EtcdServer, issuer: Issuer, **environment: str
) -> Iterator[ServiceProcess]:
    """From the moment it takes calls until it has ended, and has taken its name out of etcd."""
    with TemporaryDirectory(prefix=f"shopmesh-test-{service}-") as folder:
        process = ServiceProcess(
            service, Path(folder), DATABASE_URL=database_url, ETCD=etcd.endpoint, ISSUER=issuer.url, **environment
        )
        process.start()
        try:
            yield process
        finally:
            process.stop()
