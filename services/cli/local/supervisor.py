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
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from services.cli.local.logs import LogFile
from services.cli.local.part import DRAINED, Part, Screen, how_it_ended, in_child
from services.cli.local.process import Process
from services.failure import Failure

TRIES = 3
"""So often may a part die before it was ready for the first time."""
READY_S = 120.0
ASK_EVERY_S = 0.05
RESTART_S = 1.0
"""Longest pause before a part that dies again and again is started again."""
STOP_S = 8.5
"""Whatever still runs this long after the order to stop is killed."""
DRAIN_S = 15.0
"""So long may one part finish what it has when the others go on."""


class Supervisor:
    def __init__(
        self, processes: Iterable[Process], logs: Path, screen: Screen, changed: Callable[[list[Part]], None]
    ) -> None:
        self.parts = {process.name: Part(process, LogFile(logs, process.name)) for process in processes}
        self._logs = logs
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._complete = False
        self._screen = screen
        self._changed = changed
        self._stop = asyncio.Event()
        self._failure: Failure | None = None

    async def run(self, ready: Callable[[], Awaitable[None]]) -> None:
        """Starts everything, runs `ready` when all is, and returns when all has stopped after `stop`.

        What `ready` does beside the parts is cancelled when they begin to stop. Raises Failure, with nothing left
        running, when a part does not come up.
        """
        self._keepers = {name: asyncio.create_task(self._keep(part)) for name, part in self.parts.items()}
        beside = asyncio.create_task(self._beside(ready))
        try:
            await self._stop.wait()
        finally:
            tasks = (beside, *self._keepers.values())
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            await self._stop_all()
        for outcome in ended:
            if isinstance(outcome, Exception) and not isinstance(outcome, Failure):
                raise outcome
        if self._failure:
            raise self._failure

    async def add(self, process: Process) -> None:
        """Starts one part more, after `ready`. Raises Failure, with nothing of it left, when it fails."""
        self.parts[process.name] = Part(process, LogFile(self._logs, process.name))
        try:
            await self.start(process.name)
        except Failure:
            await self.remove(process.name)
            raise

    async def start(self, name: str) -> None:
        """Starts a part that was ended, and returns when it is ready. Raises Failure when that takes too long."""
        part = self.parts[name]
        keeper = self._keepers[name] = asyncio.create_task(self._keep(part))
        ready = asyncio.create_task(part.is_ready.wait())
        await asyncio.wait({keeper, ready}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if keeper.done():
            await keeper  # raises why
        if not part.is_ready.is_set():
            raise Failure(f"{name} is not ready after {READY_S:.0f} s, and goes on trying: see `shopmesh logs {name}`")

    async def end(self, name: str) -> None:
        """Lets a part finish what it has, and leaves it ended."""
        part = self.parts[name]
        keeper = self._keepers[name]
        keeper.cancel()
        await asyncio.wait({keeper})
        if part.pid:
            await self._stop_one(part, DRAIN_S)
        part.is_ready.clear()
        self._turn(part, DRAINED)

    async def remove(self, name: str) -> None:
        """The same, and forgets it."""
        await self.end(name)
        part = self.parts.pop(name)
        part.log.close()
        self._changed(list(self.parts.values()))

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """Ends `run`; a second call does not wait for anybody any more."""
        if self._stop.is_set():
            for part in self.parts.values():
                part.signal_group(signal.SIGKILL)
        self._stop.set()
        self._changed(list(self.parts.values()))

    async def _beside(self, ready: Callable[[], Awaitable[None]]) -> None:
        try:
            for part in self.parts.values():
                await part.is_ready.wait()
            self._complete = True
            await ready()
        except Exception:
            self._stop.set()  # raised again by run(), after everything has been stopped
            raise

    async def _keep(self, part: Part) -> None:
        """Keeps a part up. What does not come up ends the whole stack; later only whoever asked for it is told."""
        try:
            for need in part.process.needs:
                await self.parts[need].is_ready.wait()
            await self._keep_up(part)
        except Failure as error:
            if self._complete:
                raise
            self._failure = self._failure or error
            self._stop.set()
        except Exception:
            self._stop.set()  # raised again by run(), after everything has been stopped
            raise

    async def _keep_up(self, part: Part) -> None:
        """Starts it, and again whenever it dies. Raises Failure when it does not come up at all."""
        deaths = 0
        while True:
            try:
                await self._start(part)
            except Failure as error:
                if not part.was_ready:
                    raise
                self._screen.trouble(part.process.name, str(error))
            if part.process.once:
                return
            if part.is_ready.is_set():
                deaths = 0
                await self._ended(part)
            part.signal_group(signal.SIGKILL)  # what it left in its session would be in the way of the next one
            deaths += 1
            how = how_it_ended(part.child.returncode if part.child else None)
            if not part.was_ready and deaths >= TRIES:
                raise Failure(
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
                await self._helped(part, process.after)
            self._screen.ready(process.name, time.monotonic() - began, part.address)
        part.was_ready = True
        part.is_ready.set()
        self._turn(part, "done" if process.once else "ready")

    async def _answers(self, part: Part) -> bool:
        """Asks until the part is ready; False when it died instead. Raises Failure when it does neither."""
        assert part.process.ready is not None
        deadline = time.monotonic() + READY_S
        while part.pid:
            address = await part.process.ready(part.started)
            if address is not None and part.pid:
                part.address = address
                return True
            if time.monotonic() > deadline and not part.was_ready:
                raise Failure(
                    f"{part.process.name} runs but is not ready after {READY_S:.0f} s: "
                    f"see `shopmesh logs {part.process.name}`"
                )
            await asyncio.sleep(ASK_EVERY_S)
        await self._ended(part)
        return False

    async def _command(
        self, part: Part, command: tuple[str, ...], environment: Mapping[str, str] | None = None
    ) -> None:
        """Runs a command to its end in the part's place. Raises Failure with its last line when it fails."""
        await self._spawn(part, command, environment if environment is not None else os.environ, None)
        if code := await self._ended(part):
            raise Failure(f"{part.process.name}: {part.log.last or how_it_ended(code)}")

    async def _helped(self, part: Part, command: tuple[str, ...]) -> None:
        """Runs a short command while the part runs."""
        helper = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT,
            env=part.process.environment, preexec_fn=in_child(os.getpid(), signal.SIGKILL, part.process.nice),
        )  # fmt: skip
        said, _ = await helper.communicate()
        part.log.write_whole(said)
        if helper.returncode:
            raise Failure(f"{part.process.name}: {part.log.last}")

    async def _spawn(
        self, part: Part, command: tuple[str, ...], environment: Mapping[str, str], user: int | None
    ) -> None:
        part.child = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT,
            env=environment, cwd=part.process.cwd, start_new_session=True,
            user=user, group=user, extra_groups=None if user is None else [],
            preexec_fn=in_child(os.getpid(), part.process.death_signal, part.process.nice),
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
                await self._stop_one(part, min(part.process.stop_s, max(0.1, deadline - time.monotonic())))
            self._turn(part, "stopped")
            part.log.close()

        for part in self.parts.values():
            stops[part.process.name] = asyncio.create_task(stop(part))
        await asyncio.gather(*stops.values())

    async def _stop_one(self, part: Part, within_s: float) -> None:
        """By its own signal if that ends it in time; then whatever is left of its session is killed."""
        assert part.child is not None
        self._turn(part, "stopping")
        part.child.send_signal(part.process.stop_signal if part.is_ready.is_set() else signal.SIGTERM)
        try:
            await asyncio.wait_for(self._ended(part), within_s)
        except TimeoutError:
            part.log.say("killed: it did not stop in time")
        part.signal_group(signal.SIGKILL)
        await self._ended(part)

    def _turn(self, part: Part, state: str) -> None:
        part.state = state
        self._changed(list(self.parts.values()))
