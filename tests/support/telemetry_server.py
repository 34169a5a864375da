"""A telemetry store as a process of its own, and what it is asked."""

import resource
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.telemetry import Telemetry


class TelemetryServer(Telemetry):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder / "logs")

    @property
    def otlp(self) -> str:
        return f"127.0.0.1:{self.other_ports[0]}"

    @property
    def otlp_http(self) -> str:
        return f"http://127.0.0.1:{self.other_ports[1]}"

    def ask(self, path: str) -> httpx.Response:
        """A page, or what the API answers."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False, timeout=30)

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Its spans; none when it is unknown."""
        answer = self.ask(f"/api/traces/{trace_id}")
        return [] if answer.status_code == 404 else list(answer.raise_for_status().json()["spans"])

    def lines(self, text: str) -> list[dict[str, Any]]:
        return list(self.ask(f"/api/logs?text={text}").raise_for_status().json()["lines"])

    def let_files_grow_to(self, size: int) -> None:
        """As a disk has it that is full; -1: no limit any more."""
        _, most = psutil.Process(self.pid).rlimit(resource.RLIMIT_FSIZE)
        psutil.Process(self.pid).rlimit(resource.RLIMIT_FSIZE, (most if size < 0 else size, most))

    def said(self) -> str:
        """Its own log."""
        return (self.folder / "log").read_text()
