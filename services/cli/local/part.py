"""A process as the supervisor holds it, and the handles by which it is started and ended."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from services.cli.local.logs import LogFile
from services.cli.local.process import Process
from services.cli.local.tether import die_with_parent

DRAINED = "drained"
"""The state of a part that was ended on purpose and stays so."""


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

    def signal_group(self, number: signal.Signals) -> None:
        """Children lead sessions of their own, so the group is the part and all it started."""
        if self.child:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.child.pid, number)


def in_child(parent: int, death_signal: signal.Signals, nice: int) -> Callable[[], None]:
    """What a child does between fork and exec."""

    def prepare() -> None:
        die_with_parent(parent, death_signal)
        if nice:
            os.nice(nice)

    return prepare


def how_it_ended(code: int | None) -> str:
    """In words, of what a process left behind."""
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
