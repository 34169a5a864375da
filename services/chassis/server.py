"""The life of a process: start, take calls, be found, drain, end."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, cast

import grpc
import uvloop
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from mesh.v1 import config_pb2, registry_pb2

from services.chassis import client, logs
from services.chassis.address import address
from services.chassis.auth import Keys, Rule, ServiceToken, Tokens, admission, rules_of
from services.chassis.bus.connection import Bus
from services.chassis.config import LiveConfig
from services.chassis.database import Database
from services.chassis.draining import HEARD_S, until_no_call_comes
from services.chassis.early import end_at_once
from services.chassis.etcd import Etcd
from services.chassis.http import httpx
from services.chassis.interceptors import Around, surroundings
from services.chassis.looking import EVERY_S, Look
from services.chassis.messages import from_duration, violations
from services.chassis.own_lines import also_sent
from services.chassis.reflection import add_reflection
from services.chassis.registry import Registration
from services.chassis.reporting import report
from services.chassis.settings import CannotStart, Settings, host_and_port, innermost, joined
from services.chassis.sizes import SERVER_OPTIONS
from services.chassis.status import StatusRecord
from services.chassis.tracing import tracing
from services.chassis.worker import Worker
from services.files import resource

GRACE_S = 5.0
"""How long a draining process finishes what it has."""
IDENTITY_TIMEOUT_S = 2.0

log = logs.get()


type Add[S] = Callable[[S, grpc.aio.Server], None]
"""The function `add_..._to_server` that protoc writes."""


def run[C: Message](service: str, config: type[C], wire: Callable[["Process[C]"], Awaitable[None]]) -> None:
    """Is a process of `service` until SIGTERM or Ctrl-C. Exits with 1 after an error, which it has logged.

    `wire` makes the service out of what Process offers and waits for what it needs. `config` also tells the root of
    all names: for a message of `shop.order.v1` etcd's keys begin with `/shop/`, and errors have the domain `shop`.
    """
    end_at_once()
    # Read by gRPC when it makes its first server: nobody forks here, and what allows it costs 3 %.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        settings = Settings.read(service)
    except CannotStart as error:
        sys.exit(f"{service}: {error}")
    logs.configure(service, settings.instance)
    with also_sent(settings):
        ended_well = _lived(settings, config, wire)
    if not ended_well:
        sys.exit(1)


def guarded_server(
    domain: str, tokens: Tokens, rules: Mapping[str, Rule], default_s: Callable[[], float]
) -> tuple[grpc.aio.Server, Around]:
    """A server, and what stands around the calls of the servicers that `add_guarded` adds.

    `rules` may still be filled when they are added.
    """
    around = Around(surroundings(domain, default_s), admission(tokens, rules))
    return grpc.aio.server(options=SERVER_OPTIONS), around


def add_guarded[S](
    server: grpc.aio.Server, around: Around, add_servicer_to_server: Add[S], servicer: S
) -> dict[str, Rule]:
    """Adds the servicer of one service. Returns the rules of its rpcs, to be put into those of the server.

    Raises ValueError for an rpc without a rule.
    """
    handlers = _Handlers()
    add_servicer_to_server(servicer, cast("grpc.aio.Server", handlers))
    service = handlers.service
    descriptor = descriptor_pool.Default().FindServiceByName(service)
    rules = rules_of(descriptor)
    for method in descriptor.methods:
        violations(message_factory.GetMessageClass(method.input_type)())  # compiles the checks
    wrapped = {name: around.wrap(f"/{service}/{name}", handler) for name, handler in handlers.by_name.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))
    return rules


def _lived[C: Message](settings: Settings, config: type[C], wire: Callable[["Process[C]"], Awaitable[None]]) -> bool:
    """Whether it ended because it was told to; if not, it has said why."""
    failed = False
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_live(settings, config, wire))
        except* asyncio.CancelledError:
            log.info("told to stop while starting")
        except* CannotStart as errors:
            failed = True
            log.error("cannot start", error=str(innermost(errors)))  # noqa: TRY400  one clear line
        except* Exception:
            failed = True
            log.exception("ended by an unexpected error")
    if not failed:
        log.info("stopped")
    return not failed


async def _live[C: Message](
    settings: Settings, config: type[C], wire: Callable[["Process[C]"], Awaitable[None]]
) -> None:
    async with AsyncExitStack() as held:
        tracing.export(settings, _domain(config))
        held.push_async_callback(asyncio.to_thread, tracing.close)
        async with asyncio.TaskGroup() as tasks:
            await Process(settings, config, held, tasks).live(wire)


class Process[C: Message]:
    """One process of a service, and all that it stands on."""

    def __init__(self, settings: Settings, config: type[C], held: AsyncExitStack, tasks: asyncio.TaskGroup) -> None:
        self.settings = settings
        self._held, self._tasks = held, tasks
        self._running: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self.domain = _domain(config)
        """Of the errors; servicers need it only for those that they put into a message."""
        self._prefix = f"/{self.domain}/"
        self._default_s = 0.0
        self._etcd = Etcd(",".join(settings.etcd))
        held.push_async_callback(self._etcd.close)
        last_good = settings.state_dir / f"{settings.instance}.json"
        self.config = LiveConfig(
            self._etcd, f"{self._prefix}config/{settings.service}", _seed(settings, config), last_good
        )
        self.config.subscribe(self._apply)
        self._status = StatusRecord(self._etcd, self._prefix, settings.service, settings.instance)
        held.push_async_callback(self._status.leave)
        self.config.hear(lambda standing: self._status.tell(f"config/{settings.service}", standing))
        # What is local is not reached through a proxy.
        http = httpx.AsyncClient(timeout=IDENTITY_TIMEOUT_S, trust_env=False)
        held.push_async_callback(http.aclose)
        self._token = ServiceToken(settings, http)
        self._keys = Keys(settings.jwks_url, http)
        tokens = Tokens(self._keys, settings.issuer, settings.audience)
        self._rules: dict[str, Rule] = {}
        self._health = health_aio.HealthServicer()
        self._server, self._around = guarded_server(self.domain, tokens, self._rules, lambda: self._default_s)

    async def database(self, package: str) -> Database:
        """The database of this service with the migrations of `package` applied; waits until it is there."""
        database = await Database.connect(self.settings.database_url, password=self.settings.database_password_file)
        self._held.push_async_callback(database.close)
        await database.migrate(package)
        database.show()
        return database

    async def bus(self) -> Bus:
        """NATS; returns at once, also while it is away."""
        bus = await Bus.connect(self.settings.nats_url, self.settings.instance, self.settings.nats_password_file)
        self._held.push_async_callback(bus.close)
        return bus

    def channel(self, service: str) -> grpc.aio.Channel:
        """To another service, through the mesh, with this service's own token."""
        channel = client.channel(self.settings.mesh, service, self._token, self.domain, lambda: self._default_s)
        self._held.push_async_callback(channel.close)
        return channel

    def add[S](self, add_servicer_to_server: Add[S], servicer: S) -> None:
        """Serves it, with its rules, health and reflection. Raises ValueError for an rpc without a rule."""
        self._rules.update(add_guarded(self._server, self._around, add_servicer_to_server, servicer))

    def background(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Runs beside the calls, and is cancelled when the last of them is answered. If it fails, the process ends."""

        async def running() -> None:
            await run()

        self._running.append(self._tasks.create_task(running(), name=name))

    def watch(self, *looks: Look) -> None:
        """Keeps their gauges told, where somebody wants to know."""
        for look in looks if self.settings.reports else ():
            self.background(look.name, Worker(look, poll_s=EVERY_S).run)

    async def live(self, wire: Callable[["Process[C]"], Awaitable[None]]) -> None:
        """Starts, takes calls until it is told to stop, drains. Raises CannotStart."""
        starting = asyncio.current_task()
        assert starting is not None
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, starting.cancel)
        self.background("configuration", self.config.run)
        self.background("status", self._status.run)
        self.background("metrics", lambda: report(self.settings))
        await wire(self)
        # The first calls wait for them otherwise: longer than Envoy does, where the issuer is slow.
        await self._keys.prefetch()
        port = await self._start()
        registration = self._registration(port)
        self.background("registration", registration.run)
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop.set)
        host, _ = host_and_port("SHOPMESH_LISTEN", self.settings.listen)
        log.info("ready", address=joined(host, port), version=self.settings.version)
        await self._stop.wait()
        await self._drain(registration)

    async def _start(self) -> int:
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        services = {method.split("/")[1] for method in self._rules}
        add_reflection(self._server, [*services, "grpc.health.v1.Health"])
        for service in services:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        try:
            port = self._server.add_insecure_port(self.settings.listen)
        except RuntimeError as error:
            raise CannotStart(f"SHOPMESH_LISTEN={self.settings.listen} cannot be bound: {error}") from None
        await self._server.start()
        self._held.push_async_callback(self._server.stop, None)
        return port

    def _registration(self, port: int) -> Registration:
        settings = self.settings
        endpoint = registry_pb2.Endpoint(version=settings.version)
        endpoint.start_time.GetCurrentTime()
        registration = Registration(
            self._etcd, self._prefix, settings.service, settings.instance, endpoint, lambda: address(settings, port)
        )
        self._held.push_async_callback(registration.leave)
        return registration

    async def _drain(self, registration: Registration) -> None:
        log.info("draining")
        await registration.drain()
        await asyncio.sleep(HEARD_S)
        self._around.end_streams()
        await self._health.enter_graceful_shutdown()
        await until_no_call_comes(lambda: self._around.last_call)
        await self._server.stop(GRACE_S)
        for task in self._running:
            task.cancel()

    def _apply(self, config: C) -> None:
        process: config_pb2.ProcessConfig = cast("Any", config).process
        logs.set_level(config_pb2.ProcessConfig.LogLevel.Name(process.log_level).removeprefix("LOG_LEVEL_"))
        tracing.sampling_percent = process.sampling_percent
        self._default_s = from_duration(process.default_deadline).total_seconds()


class _Handlers:
    """Stands in for a server while generated code adds a servicer, and keeps what it adds."""

    def __init__(self) -> None:
        self.service = ""
        self.by_name: Mapping[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:  # noqa: ANN401
        """The same ones once more."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.service, self.by_name = service, handlers


def _domain(config: type[Message]) -> str:
    """The first word of its package."""
    return config.DESCRIPTOR.full_name.partition(".")[0]


def _seed[C: Message](settings: Settings, config: type[C]) -> C:
    path = f"etcd/seed/config/{settings.service}.json"
    try:
        return json_format.Parse(resource(path).read_bytes(), config())
    except (OSError, json_format.ParseError) as error:
        raise CannotStart(f"{path}: {error}") from None
