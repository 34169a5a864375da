"""What a local process is: how it starts, when it is ready, how it stops. Data only; supervisor.py runs it."""

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

type Ready = Callable[[float], Awaitable[str | None]]
"""Asks a process that was started at a time (in seconds since 1970) whether it takes calls yet: the address to show,
None while it does not."""


@dataclass(frozen=True, slots=True)
class Process:
    """One part of a stack.

    `before` is a command that must succeed each time before the part starts; what it prints as JSON lines
    {"step", "done", "total"} is shown as progress. `after` must succeed before the part counts as ready.
    A part that runs `once` is ready when its command has ended well, and its last line is what is shown.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    ports: tuple[str, ...] = ()
    """Names in the table of ports that it binds."""
    ready: Ready | None = None
    needs: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    once: bool = False
    nice: int = 0
    user: int | None = None
    """The user and group id to run as; None is ours."""
    cwd: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends when the supervisor dies without a word."""
    stop_s: float = 3.0
    """How long it may take to end after `stop_signal`, before it is killed."""
