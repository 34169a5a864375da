"""The supervisor with real, harmless child processes."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from services.cli.local.part import Part
from services.cli.local.process import Process
from services.cli.local.supervisor import Supervisor
from services.failure import Failure
from tests.support.waiting import DEADLINE_S, eventually

STAYS = (sys.executable, "-c", "import time; time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
)


async def at_once(_: float) -> str | None:
    return "here"


def stays(name: str, *needs: str, command: tuple[str, ...] = STAYS, stop_s: float = 3.0) -> Process:
    return Process(name, command, environment=os.environ, ready=at_once, needs=needs, stop_s=stop_s)


@dataclass
class Notes:
    """A screen that remembers."""

    said: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    turns: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    _last: dict[str, str] = field(default_factory=dict[str, str])

    def ready(self, name: str, seconds: float, address: str) -> None:
        del seconds
        self.said.append((name, f"ready at {address}"))

    def done(self, name: str, seconds: float, result: str) -> None:
        del seconds
        self.said.append((name, result))

    def progress(self, name: str, line: str) -> None:
        self.said.append((name, line))

    def trouble(self, name: str, text: str) -> None:
        self.said.append((name, text))

    def changed(self, parts: list[Part]) -> None:
        for part in parts:
            if self._last.get(part.process.name) != part.state:
                self._last[part.process.name] = part.state
                self.turns.append((part.process.name, part.state))

    def order_of(self, state: str) -> list[str]:
        return [name for name, turned in self.turns if turned == state]


@contextlib.asynccontextmanager
async def supervised(notes: Notes, folder: Path, *processes: Process) -> AsyncIterator[Supervisor]:
    """Runs them until the block ends, then stops them."""
    supervisor, ready = Supervisor(processes, folder, notes, notes.changed), asyncio.Event()

    async def is_ready() -> None:
        ready.set()

    running = asyncio.create_task(supervisor.run(is_ready))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
    try:
        if not running.done():
            yield supervisor
    finally:
        supervisor.stop()
        waiting.cancel()
        await running


async def test_a_part_starts_when_what_it_needs_is_ready_and_stops_before_it(tmp_path: Path) -> None:
    notes = Notes()
    async with supervised(notes, tmp_path, stays("store"), stays("service", "store"), stays("edge", "service")):
        pass

    assert notes.order_of("ready") == ["store", "service", "edge"]
    assert notes.order_of("stopped") == ["edge", "service", "store"]


async def test_a_part_that_dies_is_started_again_with_a_line_that_says_so(tmp_path: Path) -> None:
    notes = Notes()
    async with supervised(notes, tmp_path, stays("service")) as supervisor:
        part = supervisor.parts["service"]
        first = part.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)

        async def is_back() -> bool:
            return part.state == "ready" and part.pid not in (None, first)

        await eventually(is_back, "the part is ready again")

    assert ("service", "was ended by SIGKILL, starting it again") in notes.said
    assert "starting it again" in (tmp_path / "service.jsonl").read_text()


async def test_a_part_that_never_comes_up_ends_all_and_its_last_words_are_told(tmp_path: Path) -> None:
    notes = Notes()
    broken = stays("service", command=(sys.executable, "-c", "import sys; sys.exit('no such table')"))
    never = Process(broken.name, broken.command, environment=os.environ, ready=_never)

    with pytest.raises(Failure, match=r"service does not start \(ended with exit code 1\): no such table"):
        async with supervised(notes, tmp_path, stays("store"), never):
            raise AssertionError("became ready")

    assert set(notes.order_of("stopped")) == {"store", "service"}


async def _never(_: float) -> str | None:
    return None


async def test_a_part_that_does_not_stop_is_killed_with_all_it_started(tmp_path: Path) -> None:
    notes = Notes()
    # The shell gives way at once, its deaf child does not.
    child = """-c 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)'"""
    shell = ("/bin/sh", "-c", f'{sys.executable} {child} & echo "child $!"; wait')
    deaf = Process("deaf", STUBBORN, environment=os.environ, ready=at_once, stop_s=0.3)
    async with supervised(notes, tmp_path, deaf, stays("shell", command=shell)) as supervisor:
        parts = supervisor.parts

        async def have_spoken() -> bool:
            return parts["deaf"].log.last == "deaf" and parts["shell"].log.last.startswith("child")

        await eventually(have_spoken, "both have spoken")
        pids = [parts["deaf"].pid, int(parts["shell"].log.last.split()[1])]

    async def are_gone() -> bool:
        return not any(pid and psutil.pid_exists(pid) and _runs(pid) for pid in pids)

    await eventually(are_gone, "nothing is left")
    assert "killed: it did not stop in time" in (tmp_path / "deaf.jsonl").read_text()


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_failing_preparation_is_told_and_nothing_starts(tmp_path: Path) -> None:
    preparing = (sys.executable, "-c", "import sys; sys.exit('the disk is full')")
    part = Process("store", STAYS, environment=os.environ, ready=at_once, before=preparing)

    with pytest.raises(Failure, match="store: the disk is full"):
        async with supervised(Notes(), tmp_path, part):
            raise AssertionError("became ready")


async def test_progress_of_a_preparation_is_shown_and_not_logged(tmp_path: Path) -> None:
    notes = Notes()
    preparing = (sys.executable, "-c", """print('{"step": "unpacking"}'); print("Inflating")""")
    async with supervised(notes, tmp_path, Process("store", STAYS, os.environ, ready=at_once, before=preparing)):
        pass

    assert ("store", '{"step": "unpacking"}') in notes.said
    assert "unpacking" not in (tmp_path / "store.jsonl").read_text()
    assert "Inflating" in (tmp_path / "store.jsonl").read_text()


async def test_a_command_that_runs_once_tells_its_result(tmp_path: Path) -> None:
    notes = Notes()
    async with supervised(
        notes, tmp_path, Process("demo data", (sys.executable, "-c", "print('24 products')"), os.environ, once=True)
    ):
        pass

    assert ("demo data", "24 products") in notes.said


async def test_a_part_that_is_ended_stays_so_until_it_is_started(tmp_path: Path) -> None:
    notes = Notes()
    async with supervised(notes, tmp_path, stays("store"), stays("service", "store")) as supervisor:
        part = supervisor.parts["service"]
        first = part.pid

        await supervisor.end("service")
        assert (part.state, part.pid) == ("drained", None)

        await supervisor.start("service")
        assert part.state == "ready"
        assert part.pid not in (None, first)
        assert supervisor.parts["store"].state == "ready"


async def test_a_part_is_added_and_removed_while_the_others_run(tmp_path: Path) -> None:
    async with supervised(Notes(), tmp_path, stays("store")) as supervisor:
        await supervisor.add(stays("service", "store"))
        pid = supervisor.parts["service"].pid
        assert pid

        await supervisor.remove("service")
        assert list(supervisor.parts) == ["store"]
        assert not psutil.pid_exists(pid)


async def test_a_part_that_is_added_in_vain_leaves_the_others_alone(tmp_path: Path) -> None:
    broken = Process("service", (sys.executable, "-c", "import sys; sys.exit('no such table')"), ready=_never)
    async with supervised(Notes(), tmp_path, stays("store")) as supervisor:
        with pytest.raises(Failure, match="no such table"):
            await supervisor.add(broken)

        assert {name: part.state for name, part in supervisor.parts.items()} == {"store": "ready"}


SUPERVISING = f"""
import asyncio, os, sys
from pathlib import Path
from services.failure import Failure
from services.cli.local.process import Process
from services.cli.local.supervisor import Supervisor
from services.cli.local.terminal import Terminal

async def at_once(started):
    return ""

parts = [Process(name, {STUBBORN!r}, os.environ, ready=at_once) for name in ("one", "two")]
supervisor = Supervisor(parts, Path(sys.argv[1]), Terminal(), lambda parts: None)

async def tell():
    print("PIDS", *(part.pid for part in supervisor.parts.values()), flush=True)

asyncio.run(supervisor.run(tell))
"""


def test_sigkill_of_the_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISING, str(tmp_path)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pids = next([int(word) for word in line.split()[1:]] for line in run.stdout if line.startswith("PIDS"))
        children = [psutil.Process(pid) for pid in pids]
        run.kill()

    _, alive = psutil.wait_procs(children, timeout=DEADLINE_S)
    assert len(children) == 2
    assert not alive
