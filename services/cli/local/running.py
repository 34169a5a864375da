"""One run of a stack in the foreground, from the lock to the last process, and its twin in the background."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from services.cli.local import control
from services.cli.local.downloads import require_large_files, require_space
from services.cli.local.fleet import Fleet
from services.cli.local.free_ports import require_free
from services.cli.local.part import Part
from services.cli.local.process import Process
from services.cli.local.stack import Stack
from services.cli.local.state import StateFolder, end_leftovers
from services.cli.local.supervisor import Supervisor
from services.cli.local.terminal import Terminal
from services.cli.local.tether import die_with_parent
from services.cli.settings import HOST, STATE_VARIABLE, default_state, shown
from services.failure import Failure

STARTED_VARIABLE = "SHOPMESH_STARTED"
"""When `make run` began, in seconds since 1970: the environment it makes counts as a part of the start."""

NEEDED_BYTES = 200_000_000
"""Free on the disk before anything starts: stores that run full lose more than time."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(stack: Stack, only: Sequence[str], version: str, tethered: bool = True) -> None:
    """Returns when the stack was told to stop and has stopped. Raises Failure, with nothing left running.

    Tethered, it also stops when the process that started it ends.
    """
    if tethered:
        die_with_parent(os.getppid(), signal.SIGTERM)
    began = float(os.environ.get(STARTED_VARIABLE) or time.time())
    folder, terminal = StateFolder(stack.state), Terminal()
    with folder.hold():
        end_leftovers(folder)
        processes = _with_needs(stack.processes(), only)
        require_free(
            {name: port for name, port in stack.ports.items() if any(name in part.ports for part in processes)}
        )
        require_large_files()
        require_space(stack.state, NEEDED_BYTES)
        stack.prepare([process.name for process in processes])
        terminal.line(f"shopmesh {version}  state {shown(stack.state)}  logs: shopmesh logs")
        terminal.ready("environment", time.time() - began, "")
        is_ready = False

        def changed(parts: list[Part]) -> None:
            told = {"pid": os.getpid(), "ready": is_ready, "stopping": supervisor.stopping}
            wired = {"ports": dict(stack.ports), "issuer": stack.issuer}
            folder.write({**told, **wired, "parts": [_row(part) for part in parts if not part.process.once]})

        async def ready() -> None:
            nonlocal is_ready
            is_ready = True
            terminal.close()
            terminal.line(f"\nshopmesh is ready ({time.time() - began:.1f} s)\n")
            if not only:
                terminal.line(_where(stack, tethered))
            changed(list(supervisor.parts.values()))
            await control.serve(stack.state, Fleet(stack, supervisor).commands)

        supervisor = Supervisor(processes, folder.logs, terminal, changed)
        try:
            asyncio.run(_until_stopped(supervisor, ready, terminal))
        finally:
            terminal.close()


def detach(arguments: Sequence[str], folder: StateFolder) -> None:
    """Starts the same in the background and returns when it is ready. Raises Failure when it ends instead."""
    folder.path.mkdir(parents=True, exist_ok=True)
    log = folder.path / "up.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "up", "--untethered", *arguments],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, STATE_VARIABLE: str(folder.path), "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    with log.open() as lines:
        while True:
            ended, ready = child.poll(), folder.holder() == child.pid and folder.read()["ready"]
            sys.stdout.write(lines.read())
            sys.stdout.flush()
            if ended is not None:
                raise SystemExit(ended or 1)
            if ready:
                return
            time.sleep(0.05)


async def _until_stopped(supervisor: Supervisor, ready: Callable[[], Awaitable[None]], terminal: Terminal) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        terminal.close()
        terminal.line("killing" if supervisor.stopping else "\nstopping (once more: kill)")
        supervisor.stop()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    await supervisor.run(ready)
    terminal.line("stopped")


def _row(part: Part) -> dict[str, Any]:
    facts = {"state": part.state, "pid": part.pid, "address": part.address, "started": part.started}
    return {"name": part.process.name, **facts}


def _with_needs(processes: list[Process], only: Sequence[str]) -> list[Process]:
    """The processes named and all that they need, in the order of the stack; all when none is named."""
    if not only:
        return processes
    known = {process.name: process for process in processes}
    if unknown := [name for name in only if name not in known]:
        raise Failure(f"there is no part {', '.join(unknown)}: parts are {', '.join(known)}")
    wanted, found = list(only), set[str]()
    while wanted:
        if (name := wanted.pop()) not in found:
            found.add(name)
            wanted.extend(known[name].needs)
    return [process for process in processes if process.name in found]


def _where(stack: Stack, tethered: bool) -> str:
    edge = f"http://{HOST}:{stack.ports['edge']}"
    tools = shown(Path(sys.executable).parent)
    state = "" if stack.state == default_state() else f"{STATE_VARIABLE}={shown(stack.state)} "
    list_products = f"{edge}/shop.product.v1.ProductService/ListProducts -d '{{\"page_size\": 3}}'"
    return f"""\
  shop          {edge}    gRPC, REST from /v1
  mail          http://{HOST}:{stack.ports["mail"]}
  telemetry     http://{HOST}:{stack.ports["telemetry"]}    traces, logs, metrics
  identity      http://localhost:{stack.ports["keycloak"]}
  users         ann bob (customer)  carol (catalog and inventory manager)  oscar (operator); password = name

  try:  {state}{tools}/shopmesh demo
        {tools}/buf curl --protocol grpc --http2-prior-knowledge {list_products}
        curl -s '{edge}/v1/products?page_size=3'
  stop: {"Ctrl-C" if tethered else f"{state}{tools}/shopmesh down"}
"""
