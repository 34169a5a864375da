"""Processes under test that can be killed and started again where they were."""

import ctypes
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from tests.support.ports import free_port
from tests.support.waiting import DEADLINE_S

BIN = Path(sys.executable).parent
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Server:
    """One server on one port of 127.0.0.1, which it keeps over restarts. Dies with the tests, however they end."""

    ports = 1
    stop_signal = signal.SIGTERM
    user: int | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, *self.other_ports = (free_port() for _ in range(self.ports))
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str | Path]:
        """What to run; the server listens on `self.port` of 127.0.0.1."""
        raise NotImplementedError

    def start(self) -> Self:
        """Returns when the port accepts."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
                user=self.user, group=self.user, extra_groups=None if self.user is None else [],
                preexec_fn=_die_with_parent,  # noqa: PLW1509  calls one function of libc
            )  # fmt: skip
        self._await_port()
        return self

    def kill(self) -> None:
        """As a crash does; the port is free again when this returns."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(self.stop_signal)

    def freeze(self) -> None:
        """Connections stay open, nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, what: signal.Signals) -> None:
        """The children too: PostgreSQL's have process groups of their own."""
        assert self._process
        server = psutil.Process(self._process.pid)
        for process in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(what)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.send_signal(signal.SIGCONT)
        self._process.wait(DEADLINE_S)
        self._process = None

    def _await_port(self) -> None:
        assert self._process
        deadline = time.monotonic() + DEADLINE_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.command()[0]} does not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it takes requests; overridden where a port accepts before that."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
