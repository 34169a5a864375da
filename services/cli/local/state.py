"""The folder of one stack: who holds it, where its parts are. What `status`, `down` and the rest read."""

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from services.cli.settings import shown
from services.failure import Failure

if TYPE_CHECKING:
    import psutil

DYING_S, STOPPING_S = 0.5, 15.0
_ROW = ("name", "state", "pid", "address", "started")


@dataclass(frozen=True, slots=True)
class StateFolder:
    path: Path

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def hold(self) -> IO[str]:
        """Takes the lock that one supervisor holds as long as it lives; the kernel gives it back however it dies.

        Waits for one that is ending. Raises Failure when another one has it and goes on.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a+")
        except OSError as error:
            raise Failure(
                f"{shown(self.path)} cannot be written ({error.strerror}): mend that, or choose another with --state"
            ) from None
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not self._is_ending(time.monotonic() - began):
                    lock.close()
                    raise Failure(
                        f"a shop is already running in {shown(self.path)} (process {self._pid()}): use it, stop it "
                        "with `shopmesh down`, or start another one beside it with --state and --ports-from"
                    ) from None
                time.sleep(0.05)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _is_ending(self, waited_s: float) -> bool:
        """A killed process keeps its lock for a moment, a stopping one until its parts have stopped."""
        return waited_s < (STOPPING_S if self.read().get("stopping") else DYING_S)

    def holder(self) -> int | None:
        """The process id of the supervisor that runs here, None when none does."""
        try:
            with (self.path / "lock").open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return self._pid()

    def _pid(self) -> int | None:
        text = (self.path / "lock").read_text()
        return int(text) if text.isdigit() else None

    def write(self, stack: dict[str, Any]) -> None:
        """Keeps what the supervisor knows for those who ask. On a full disk the news before stand."""
        file = self.path / "stack.json"
        part = file.with_suffix(".part")
        with contextlib.suppress(OSError):
            part.write_text(json.dumps(stack, indent=1))
            part.replace(file)

    def read(self) -> dict[str, Any]:
        """What the supervisor wrote last: {pid, ready, stopping, ports, issuer, parts}.

        Parts of a stack that is gone are `stopped`.
        """
        stack = self.written()
        if self.holder() != stack.get("pid"):
            stack["ready"] = False
            for part in stack["parts"]:
                part.update(state="stopped", pid=None)
        return stack

    def written(self) -> dict[str, Any]:
        """The same as it was written, by whom ever; nothing where another version wrote it in another way."""
        try:
            stack = json.loads((self.path / "stack.json").read_text())
            if {*stack} >= {"pid", "ports"} and all({*part} >= {*_ROW} for part in stack["parts"]):
                return dict(stack)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
        return {"ready": False, "ports": {}, "parts": []}

    def ports(self) -> dict[str, int]:
        """The ports of the stack that runs here. Raises Failure when none does."""
        if self.holder() is None:
            raise Failure(f"no shop runs in {self.path}: start one with `make run` or `shopmesh up --detach`")
        return dict(self.read()["ports"])


def end_leftovers(folder: StateFolder) -> None:
    """Ends what a supervisor that was killed may have left, before its ports and files are used again."""
    import psutil

    left = [process for part in folder.written()["parts"] if (process := _same_process(part)) is not None]
    _, alive = psutil.wait_procs(left, timeout=3)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=3)


def _same_process(part: dict[str, Any]) -> "psutil.Process | None":
    """The process a part was, unless its id has gone to a stranger."""
    import psutil

    if not part.get("pid"):
        return None
    try:
        process = psutil.Process(part["pid"])
        return process if abs(process.create_time() - part["started"]) < 1 else None
    except psutil.NoSuchProcess:
        return None


def memory(pid: int | None) -> tuple[int, int]:
    """Resident and proportional bytes of a process and all below it; 0 for what may not be read or is gone."""
    import psutil

    try:
        root = psutil.Process(pid) if pid else None
        tree = [root, *root.children(recursive=True)] if root else []
    except psutil.NoSuchProcess:
        tree = []
    rss = pss = 0
    for process in tree:
        try:
            rss += process.memory_info().rss
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except (psutil.Error, OSError):
            continue
        pss += next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    return rss, pss
