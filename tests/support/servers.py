"""Processes under test that can be killed and started again where they were."""

import os
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
# Set by a program in between, and not in a forked copy of the tests: forking them wakes gRPC's handlers of forks, which
# break its channels. A process keeps its death signal over exec, and loses it when it changes its user.
_TETHERED = """
import ctypes, os, signal, sys
parent, user, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if user:
    os.setgroups([]), os.setgid(user), os.setuid(user)
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != parent:  # they ended before that
    sys.exit()
os.execvp(command[0], command)
"""


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
                [sys.executable, "-IS", "-c", _TETHERED, str(os.getpid()), str(self.user or 0), *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        self._await_port()
        return self

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def kill(self) -> None:
        """As a crash of the machine does: all of it at once. The port is free again when this returns."""
        self._end(signal.SIGKILL, self._processes())

    def stop(self) -> None:
        self._end(self.stop_signal, self._processes()[:1])

    def freeze(self) -> None:
        """Connections stay open, nothing answers. Returns when every thread has stopped."""
        processes = self._processes()
        _signal(processes, signal.SIGSTOP)
        deadline = time.monotonic() + DEADLINE_S
        while not all(map(_has_stopped, processes)):
            assert time.monotonic() < deadline, f"{self.command()[0]} does not stop"
            time.sleep(0.002)

    def thaw(self) -> None:
        _signal(self._processes(), signal.SIGCONT)

    def _processes(self) -> list[psutil.Process]:
        """The server and its children: those of PostgreSQL have process groups of their own, and outlive it."""
        if self._process is None:
            return []
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def _end(self, how: signal.Signals, whom: list[psutil.Process]) -> None:
        if self._process is None:
            return
        everybody = self._processes()
        _signal(whom, how)
        _signal(everybody, signal.SIGCONT)
        self._process.wait(DEADLINE_S)
        psutil.wait_procs(everybody, DEADLINE_S)
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


def _signal(processes: list[psutil.Process], what: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(what)


def _has_stopped(process: psutil.Process) -> bool:
    threads = Path(f"/proc/{process.pid}/task").glob("*/stat")
    with suppress(FileNotFoundError):
        return all(thread.read_text().rpartition(")")[2].split()[0] in "TZ" for thread in threads)
    return not process.is_running()
