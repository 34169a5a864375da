"""Collector, Jaeger, Loki and Prometheus with the files of deploy/, as processes with ports of their own.

They run where their binaries are on the PATH. In the files names of compose.yaml become addresses, nothing else.
"""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, override

import httpx

from tests.support.ports import free_port
from tests.support.servers import Server

DEPLOY = Path(__file__).parents[2] / "deploy"
BINARIES = ("otelcol-contrib", "jaeger", "loki", "prometheus")


def missing() -> list[str]:
    """Binaries that are not on the PATH."""
    return [name for name in BINARIES if not shutil.which(name)]


class _Backend(Server):
    """One of them, once its file is written."""

    def __init__(self, folder: Path, port: int, ready: str, command: list[str]) -> None:
        super().__init__(folder)
        self.port, self._ready, self._command = port, ready, command
        folder.mkdir()

    @override
    def command(self) -> list[str]:
        return self._command

    @override
    def answers(self) -> bool:
        """The same as the health check of compose.yaml asks for."""
        if not super().answers():
            return False
        try:
            answer = httpx.get(f"http://127.0.0.1:{self._ready}", trust_env=False)
        except httpx.HTTPError:
            return not self._ready
        return answer.status_code == httpx.codes.OK


@dataclass(frozen=True, slots=True)
class Backends:
    """Where they answer."""

    prometheus: str
    loki: str
    jaeger: str

    async def numbers(self, query: str) -> list[dict[str, Any]]:
        """Of now, each with its `metric` and `value`. Raises AssertionError for a query that Prometheus refuses."""
        return list((await _asked(f"{self.prometheus}/api/v1/query", query=query))["data"]["result"])

    async def rules(self) -> list[dict[str, Any]]:
        groups = (await _asked(f"{self.prometheus}/api/v1/rules"))["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def lines(self, query: str) -> list[tuple[dict[str, str], str]]:
        """Each with all that is known of it."""
        streams = (await _asked(f"{self.loki}/loki/api/v1/query_range", query=query, since="1h", limit="1000"))["data"]
        return [(stream["stream"], line) for stream in streams["result"] for _, line in stream["values"]]

    async def labels(self) -> set[str]:
        """Of streams."""
        return set((await _asked(f"{self.loki}/loki/api/v1/labels", since="1h")).get("data", ()))

    async def spans(self, trace_id: str) -> list[tuple[str, str]]:
        """Service and name of each span of a trace; none while it is not there."""
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            answer = await client.get(f"{self.jaeger}/api/traces/{trace_id}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return []
        (trace,) = answer.raise_for_status().json()["data"]
        services = {key: process["serviceName"] for key, process in trace["processes"].items()}
        return [(services[span["processID"]], span["operationName"]) for span in trace["spans"]]


@contextmanager
def running_backends(folder: Path, otlp: int, shop: Mapping[str, int]) -> Iterator[Backends]:
    """`otlp` is the port of the collector, `shop` are those of a stack on this machine."""
    jaeger_otlp, jaeger, jaeger_health, jaeger_grpc = (free_port() for _ in range(4))
    loki, loki_grpc, prometheus, own = (free_port() for _ in range(4))
    at = {
        "telemetry:4317": shop["otlp"], "telemetry:8026": shop["telemetry"], "jaeger:4317": jaeger_otlp,
        "loki:3100": loki, "collector:8888": own,
    }  # fmt: skip

    def addresses(*names: str) -> dict[str, str]:
        return {name: f"127.0.0.1:{at[name]}" for name in names}

    def written(file: str, changes: Mapping[str, str]) -> str:
        text = (DEPLOY / file).read_text()
        for old, new in changes.items():
            assert old in text, f"{file} does not say {old} any more"
            text = text.replace(old, new)
        (folder / Path(file).name).write_text(text)
        return str(folder / Path(file).name)

    collector_file = written(
        "observability/collector.yaml",
        {"0.0.0.0:4317": f"127.0.0.1:{otlp}", "host: 0.0.0.0, port: 8888": f"host: 127.0.0.1, port: {own}"}
        | addresses("telemetry:4317", "jaeger:4317", "loki:3100"),
    )
    jaeger_file = written(
        "observability/jaeger.yaml",
        {
            "0.0.0.0:4317": f"127.0.0.1:{jaeger_otlp}", "0.0.0.0:16686": f"127.0.0.1:{jaeger}",
            "127.0.0.1:16685": f"127.0.0.1:{jaeger_grpc}", "127.0.0.1:13133": f"127.0.0.1:{jaeger_health}",
        },
    )  # fmt: skip
    loki_file = written(
        "observability/loki.yaml",
        {
            "http_listen_port: 3100": f"http_listen_port: {loki}\n  grpc_listen_port: {loki_grpc}",
            "/loki": f"{folder}/loki",
        },
    )
    # The name is looked up in the DNS of containers; here it is one address. Numbers come more often than every 15 s.
    looked_up = """dns_sd_configs: # each of several
      - {names: [envoy], type: A, port: 9901, refresh_interval: 15s}"""
    envoy = f'static_configs:\n      - targets: ["127.0.0.1:{shop["envoy-admin"]}"]'
    prometheus_file = written(
        "prometheus/containers.yml",
        {looked_up: envoy, "_interval: 15s": "_interval: 1s"} | addresses("telemetry:8026", "collector:8888"),
    )
    shutil.copy(DEPLOY / "prometheus" / "rules.yml", folder)
    with ExitStack() as stack:
        for backend in (
            _Backend(folder / "jaeger", jaeger, f"{jaeger_health}/status", ["jaeger", f"--config={jaeger_file}"]),
            _Backend(folder / "loki", loki, f"{loki}/ready", ["loki", f"-config.file={loki_file}"]),
            _Backend(
                folder / "prometheus", prometheus, f"{prometheus}/-/ready",
                [
                    "prometheus", f"--config.file={prometheus_file}", f"--storage.tsdb.path={folder}/prometheus",
                    f"--web.listen-address=127.0.0.1:{prometheus}",
                ],
            ),
            _Backend(folder / "collector", otlp, f"{own}/metrics", ["otelcol-contrib", f"--config={collector_file}"]),
        ):  # fmt: skip
            stack.callback(backend.start().stop)
        yield Backends(f"http://127.0.0.1:{prometheus}", f"http://127.0.0.1:{loki}", f"http://127.0.0.1:{jaeger}")


def version(binary: str) -> str:
    """The first line of what it says about itself."""
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=60, check=True)
    return (told.stdout or told.stderr).splitlines()[0]


async def _asked(address: str, **query: str) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.get(address, params=query)
    assert answer.status_code == httpx.codes.OK, f"{query}: {answer.text}"
    found: dict[str, Any] = answer.json()
    return found
