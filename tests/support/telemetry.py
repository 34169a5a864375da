"""The telemetry process, to be killed and started again where it was."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.servers import Server


class Telemetry(Server):
    """`port` has the pages; the other two take OTLP over gRPC and HTTP."""

    ports = 3

    def __init__(self, folder: Path, logs: Path, more: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self.logs, self.more = logs, more or {}

    def command(self) -> Sequence[str | Path]:
        grpc, http = self.other_ports
        settings = {
            "SHOPMESH_OTLP_LISTEN": f"127.0.0.1:{grpc}",
            "SHOPMESH_OTLP_HTTP_LISTEN": f"127.0.0.1:{http}",
            "SHOPMESH_TELEMETRY_LISTEN": f"127.0.0.1:{self.port}",
            "SHOPMESH_TELEMETRY_DIR": str(self.folder / "telemetry"),
            "SHOPMESH_LOGS": str(self.logs),
            **self.more,
        }
        return [
            "env",
            *(f"{name}={value}" for name, value in settings.items()),
            sys.executable,
            "-m",
            "services.telemetry",
        ]
