"""Runs the processes of a stack: starts them in order, keeps them up, stops them in reverse.

One event loop in the main thread does it all. Children are forked by that thread, because PR_SET_PDEATHSIG fires
when the thread that forked ends; so whatever kills the supervisor takes the children along.
"""

import asyncio
import contextlib
import os
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from services.cli.logs import LogFile
from services.cli.process import CannotStart, Process
from services.cli.tether import die_with_parent

TRIES = 3
"""So often may a part die before it was ready for the first time."""
READY_S = 120.0
ASK_EVERY_S = 0.05
RESTART_S = 1.0
"""Longest pause before a part that dies again and again is started again."""
STOP_S = 8.5
"""Whatever still runs this long after the order to stop is killed."""


class Screen(Protocol):
    """Where the supervisor tells what happens."""

    def ready(self, name: str, seconds: float, address: str) -> None: ...
    def done(self, name: str, seconds: float, result: str) -> None: ...
    def progress(self, name: str, line: str) -> None: ...
    def trouble(self, name: str, text: str) -> None: ...


@dataclass(slots=True)
class Part:
    """A process as it is now."""

    process: Process
    log: LogFile
    state: str = "waiting"
    address: str = ""
    child: asyncio.subprocess.Process | None = None
    reader: asyncio.Task[None] | None = None
    started: float = 0.0
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    was_ready: bool = False

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child and self.child.returncode is None else None


class Supervisor:
    def __init__(
        self, processes: Iterable[Process], logs: Path, screen: Screen, changed: Callable[[list[Part]], None]
    ) -> None:
        self.parts = {process.name: Part(process, LogFile(logs, process.name)) for process in processes}
        self._screen = screen
        self._changed = changed
        self._stop = asyncio.Event()
        self._failure: CannotStart | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Starts everything, calls `ready` when all is, and returns when all has stopped after `stop`.

        Raises CannotStart, with nothing left running, when a part does not come up.
        """
        keepers = [asyncio.create_task(self._keep(part)) for part in self.parts.values()]
        announce = asyncio.create_task(self._announce(ready))
        try:
            await self._stop.wait()
        finally:
            for task in (*keepers, announce):
                task.cancel()
            ended = await asyncio.gather(*keepers, announce, return_exceptions=True)
            await self._stop_all()
        for outcome in ended:
            if isinstance(outcome, Exception) and not isinstance(outcome, CannotStart):
                raise outcome
        if self._failure:
            raise self._failure

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """Ends `run`; a second call does not wait for anybody any more."""
        if self._stop.is_set():
            for part in self.parts.values():
                _signal_group(part, signal.SIGKILL)
        self._stop.set()
        self._changed(list(self.parts.values()))

    async def _announce(self, ready: Callable[[], None]) -> None:
        for part in self.parts.values():
            await part.is_ready.wait()
        ready()

    async def _keep(self, part: Part) -> None:
        """Keeps a part up; what it cannot go on with ends the whole stack."""
        try:
            for need in part.process.needs:
                await self.parts[need].is_ready.wait()
            await self._keep_up(part)
        except CannotStart as error:
            self._failure = self._failure or error
            self._stop.set()
        except Exception:
            self._stop.set()  # raised again by run(), after everything has been stopped
            raise

    async def _keep_up(self, part: Part) -> None:
        """Starts it, and again whenever it dies. Raises CannotStart when it does not come up at all."""
        deaths = 0
        while True:
            try:
                await self._start(part)
            except CannotStart as error:
                if not part.was_ready:
                    raise
                self._screen.trouble(part.process.name, str(error))
            if part.process.once:
                return
            if part.is_ready.is_set():
                deaths = 0
                await self._ended(part)
            _signal_group(part, signal.SIGKILL)  # what it left in its session would be in the way of the next one
            deaths += 1
            how = _how(part.child.returncode if part.child else None)
            if not part.was_ready and deaths >= TRIES:
                raise CannotStart(
                    f"{part.process.name} does not start ({how}): {part.log.last} "
                    f"(more: `shopmesh logs {part.process.name}`; to begin anew: `make clean`)"
                )
            part.is_ready.clear()
            part.log.say(f"the process {how}; starting it again")
            self._screen.trouble(part.process.name, f"{how}, starting it again")
            self._turn(part, "restarting")
            await asyncio.sleep(min(0.1 * 2 ** (deaths - 1), RESTART_S))

    async def _start(self, part: Part) -> None:
        """Returns when the part is ready or has died."""
        process, began = part.process, time.monotonic()
        if process.before:
            self._turn(part, "preparing")
            await self._command(part, process.before)
        self._turn(part, "starting")
        if process.once:
            await self._command(part, process.command, process.environment)
            self._screen.done(process.name, time.monotonic() - began, part.log.last)
        else:
            await self._spawn(part, process.command, process.environment, process.user)
            if not await self._answers(part):
                return
            if process.after:
                await self._beside(part, process.after)
            self._screen.ready(process.name, time.monotonic() - began, part.address)
        part.was_ready = True
        part.is_ready.set()
        self._turn(part, "done" if process.once else "ready")

    async def _answers(self, part: Part) -> bool:
        """Asks until the part is ready; False when it died instead. Raises CannotStart when it does neither."""
        assert part.process.ready is not None
        deadline = time.monotonic() + READY_S
        while part.pid:
            address = await part.process.ready(part.started)
            if address is not None and part.pid:
                part.address = address
                return True
            if time.monotonic() > deadline and not part.was_ready:
                raise CannotStart(
                    f"{part.process.name} runs but is not ready after {READY_S:.0f} s: "
                    f"see `shopmesh logs {part.process.name}`"
                )
            await asyncio.sleep(ASK_EVERY_S)
        await self._ended(part)
        return False

    async def _command(
        self, part: Part, command: tuple[str, ...], environment: Mapping[str, str] | None = None
    ) -> None:
        """Runs a command to its end in the part's place. Raises CannotStart with its last line when it fails."""
        await self._spawn(part, command, environment if environment is not None else os.environ, None)
        if code := await self._ended(part):
            raise CannotStart(f"{part.process.name}: {part.log.last or _how(code)}")

    async def _beside(self, part: Part, command: tuple[str, ...]) -> None:
        """Runs a short command while the part runs."""
        helper = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT,
            env=part.process.environment, preexec_fn=_in_child(os.getpid(), signal.SIGKILL, part.process.nice),
        )  # fmt: skip
        said, _ = await helper.communicate()
        part.log.write(said)
        if helper.returncode:
            raise CannotStart(f"{part.process.name}: {part.log.last}")

    async def _spawn(
        self, part: Part, command: tuple[str, ...], environment: Mapping[str, str], user: int | None
    ) -> None:
        part.child = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT,
            env=environment, cwd=part.process.cwd, start_new_session=True,
            user=user, group=user, extra_groups=None if user is None else [],
            preexec_fn=_in_child(os.getpid(), part.process.death_signal, part.process.nice),
        )  # fmt: skip
        part.started = time.time()
        part.reader = asyncio.create_task(self._read(part, part.child))
        self._turn(part, part.state)

    async def _read(self, part: Part, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None
        preparing = part.state == "preparing" or part.process.once
        while chunk := await child.stdout.read(65536):
            if preparing:
                progress = [line for line in chunk.splitlines() if line.startswith(b'{"step"')]
                if progress:
                    self._screen.progress(part.process.name, progress[-1].decode())
                chunk = b"".join(line for line in chunk.splitlines(keepends=True) if not line.startswith(b'{"step"'))
            part.log.write(chunk)

    async def _ended(self, part: Part) -> int:
        """Waits for the end of the part's process and for its last words."""
        assert part.child is not None
        assert part.reader is not None
        code = await part.child.wait()
        with contextlib.suppress(TimeoutError):  # a child of its own may hold the pipe open for a moment
            await asyncio.wait_for(asyncio.shield(part.reader), 1.0)
        return code

    async def _stop_all(self) -> None:
        """Each part after all that need it, all of it within STOP_S."""
        deadline = time.monotonic() + STOP_S
        stops: dict[str, asyncio.Task[None]] = {}

        async def stop(part: Part) -> None:
            users = [name for name, other in self.parts.items() if part.process.name in other.process.needs]
            await asyncio.gather(*(stops[name] for name in users))
            if part.pid:
                await self._stop_one(part, deadline)
            self._turn(part, "stopped")
            part.log.close()

        for part in self.parts.values():
            stops[part.process.name] = asyncio.create_task(stop(part))
        await asyncio.gather(*stops.values())

    async def _stop_one(self, part: Part, deadline: float) -> None:
        """By its own signal if that ends it in time; then whatever is left of its session is killed."""
        assert part.child is not None
        self._turn(part, "stopping")
        part.child.send_signal(part.process.stop_signal if part.is_ready.is_set() else signal.SIGTERM)
        try:
            await asyncio.wait_for(self._ended(part), min(part.process.stop_s, max(0.1, deadline - time.monotonic())))
        except TimeoutError:
            part.log.say("killed: it did not stop in time")
        _signal_group(part, signal.SIGKILL)
        await self._ended(part)

    def _turn(self, part: Part, state: str) -> None:
        part.state = state
        self._changed(list(self.parts.values()))


def _in_child(parent: int, death_signal: signal.Signals, nice: int) -> Callable[[], None]:
    def prepare() -> None:
        die_with_parent(parent, death_signal)
        if nice:
            os.nice(nice)

    return prepare


def _signal_group(part: Part, number: signal.Signals) -> None:
    """Children lead sessions of their own, so the group is the part and all it started."""
    if part.child:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(part.child.pid, number)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
