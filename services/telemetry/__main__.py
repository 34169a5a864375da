"""Runs the telemetry store: OTLP in over gRPC and HTTP, and the pages, in one process until SIGTERM."""

import asyncio
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import uvicorn
import uvloop
from starlette.types import ASGIApp

from services.chassis import logs, reporting
from services.chassis.early import end_at_once
from services.chassis.own_lines import also_sent
from services.chassis.settings import LOOPBACK, CannotStart, Settings, host_and_port, joined, target_of
from services.chassis.vitals import watch_the_loop
from services.log_files import said
from services.pages.guard import Guarded, answering_to
from services.story.databases import urls
from services.telemetry import memory
from services.telemetry.counted import count
from services.telemetry.forward import Forward
from services.telemetry.intake import Intake
from services.telemetry.metrics import Numbers
from services.telemetry.receiver import Signal, grpc_server, log_records, metrics, traces
from services.telemetry.receiver_http import http_application
from services.telemetry.segments import Bounds, Segments
from services.telemetry.store import Store
from services.telemetry.tail import Tail
from services.telemetry.web import Place, application

MOST_CONNECTIONS = 64
"""Over HTTP, at each of the two ports; beyond that the answer is 503."""
STOP_S = 1.0
"""How long calls may take when it is told to stop."""

_LARGEST = 10**15 - 1

log = logs.get()


@dataclass(frozen=True, slots=True)
class Places:
    """Where it listens, where it keeps what, and how much of it."""

    otlp: str
    otlp_http: tuple[str, int]
    pages: tuple[str, int]
    folder: Path
    bounds: Bounds
    lens: Path | None
    """The jar of Zipkin Lens."""
    postgres: str
    """`host:port` of the databases that know orders; empty: nobody said so."""
    logs: Path | None
    """The folder of the launcher's log files."""

    @classmethod
    def read(cls) -> "Places":
        """From the environment. Raises CannotStart."""
        return cls(
            otlp=joined(*_address("OTLP_LISTEN", "127.0.0.1:4317")),
            otlp_http=_address("OTLP_HTTP_LISTEN", "127.0.0.1:4318"),
            pages=_address("TELEMETRY_LISTEN", "127.0.0.1:8026"),
            folder=Path(os.environ.get("SHOPMESH_TELEMETRY_DIR") or ".shopmesh/telemetry"),
            bounds=Bounds(
                bytes=int(_number("TELEMETRY_MAX_BYTES", Bounds().bytes)),
                age_s=_number("TELEMETRY_MAX_AGE_S", Bounds().age_s),
            ),
            lens=Path(lens) if (lens := os.environ.get("SHOPMESH_LENS")) else None,
            postgres=os.environ.get("SHOPMESH_POSTGRES") or "",
            logs=Path(folder) if (folder := os.environ.get("SHOPMESH_LOGS")) else None,
        )


def main() -> None:
    """Serves on the addresses that the environment names. Exits with 1 when it cannot."""
    end_at_once()
    # Nobody forks here, and what allows it costs time.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    memory.in_one_place()
    logs.configure("telemetry", os.environ.get("SHOPMESH_INSTANCE") or "telemetry")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(Places.read()))
    except* CannotStart as errors:
        log.error("cannot start", error=str(errors.exceptions[0]))  # noqa: TRY400  one clear line
        sys.exit(1)
    log.info("stopped")


async def serve(places: Places) -> None:
    """Until SIGTERM or Ctrl-C. Raises CannotStart."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        segments = Segments(places.folder, places.bounds)
    except (OSError, sqlite3.Error) as error:
        raise CannotStart(f"{places.folder} cannot be used: {error}") from None
    intake = Intake(segments)
    store = Store(segments, intake)
    settings = Settings.read("telemetry")
    if settings.otlp_endpoint and _is_here(settings.otlp_endpoint, places.otlp):
        settings = replace(settings, otlp_endpoint="")  # the environment of all processes: it is kept here
    count(intake, segments)
    numbers = Numbers(own=lambda: reporting.counted(settings))
    # Each signal comes in by both doors.
    signals = [traces(intake), log_records(intake), metrics(numbers)]
    place = Place(
        hosts=answering_to(places.pages[0]),
        lens=places.lens,
        databases=urls(places.postgres) if places.postgres else {},
        collector=settings.otlp_endpoint,
        password=settings.database_password_file,
    )
    if place.password:
        place.password.read()  # raises CannotStart: nobody has to look at a page to see that it is missing
    forward = Forward(settings.otlp_endpoint, intake) if settings.otlp_endpoint else None
    with _own_lines(settings, places, intake):
        async with asyncio.TaskGroup() as tasks:
            # A thread of its own: questions take all of the others.
            tasks.create_task(_in_a_thread(intake.run))
            beside = [tasks.create_task(reporting.report(settings) if settings.otlp_endpoint else watch_the_loop())]
            if places.logs:
                beside.append(tasks.create_task(Tail(places.logs, store.marks(), forward or intake).run()))
            try:
                async with (
                    _grpc(grpc_server(signals, places.otlp, intake.refuse)),
                    _http(_otlp_http(signals, intake, places.otlp_http[0]), "OTLP_HTTP_LISTEN", *places.otlp_http),
                    _http(application(store, place, numbers.text), "TELEMETRY_LISTEN", *places.pages),
                ):
                    log.info("telemetry is taken", otlp=places.otlp, page=f"http://{joined(*places.pages)}")
                    await stop.wait()
            finally:
                intake.close()
                if forward:
                    forward.close()
                for task in beside:
                    task.cancel()
    segments.close()


def _is_here(endpoint: str, listening: str) -> bool:
    """Whether an OTLP endpoint is this very process: its port, at an address of this machine."""
    name = "SHOPMESH_OTLP_ENDPOINT"
    host, port = host_and_port(name, target_of(endpoint)[0])
    if port != host_and_port("SHOPMESH_OTLP_LISTEN", listening)[1]:
        return False
    with suppress(OSError):  # nobody else's address can be bound
        for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as probe:
                probe.bind(address)
                return True
    return False


@contextmanager
def _own_lines(settings: Settings, places: Places, intake: Intake) -> Iterator[None]:
    """Where SHOPMESH_OTLP_LOGS wants them: with those of all others, here or elsewhere. From files they come anyway."""
    if places.logs or not settings.otlp_logs:
        yield
    elif settings.otlp_endpoint:
        with also_sent(settings):
            yield
    else:

        def keep(line: bytes) -> None:
            intake.put_lines([said(line, settings.service, time.time_ns())])

        with logs.also(keep):
            yield


async def _in_a_thread(run: Callable[[], None]) -> None:
    thread = ThreadPoolExecutor(1)
    try:
        await asyncio.get_running_loop().run_in_executor(thread, run)
    finally:
        thread.shutdown(wait=False)


def _otlp_http(signals: Iterable[Signal], intake: Intake, host: str) -> ASGIApp:
    """Where it listens for this machine only, no page of a browser reaches it by a name of its own (DNS rebinding)."""
    app = http_application(signals, intake.refuse)
    return Guarded(app, LOOPBACK, {}) if host in LOOPBACK else app


@asynccontextmanager
async def _grpc(server: grpc.aio.Server) -> AsyncIterator[None]:
    await server.start()
    try:
        yield
    finally:
        await server.stop(STOP_S)


class _Server(uvicorn.Server):
    """One of several in a process, which itself is told to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _http(app: ASGIApp, name: str, host: str, port: int) -> AsyncIterator[None]:
    """Serves the application there; `name` is the variable that says where. Raises CannotStart."""
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise CannotStart(f"SHOPMESH_{name}={joined(host, port)} cannot be bound: {error.strerror}") from None
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1,
        limit_concurrency=MOST_CONNECTIONS,
    )  # fmt: skip
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listening]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
        listening.close()


def _address(name: str, default: str) -> tuple[str, int]:
    """Raises CannotStart."""
    return host_and_port(f"SHOPMESH_{name}", os.environ.get(f"SHOPMESH_{name}") or default)


def _number(name: str, default: float) -> float:
    """Raises CannotStart."""
    text = os.environ.get(f"SHOPMESH_{name}") or str(default)
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= _LARGEST:
        raise CannotStart(f"SHOPMESH_{name} must be a number above 0, of at most 15 digits, not {text!r}")
    return number


if __name__ == "__main__":
    main()
