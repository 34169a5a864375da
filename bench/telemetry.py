"""What the telemetry store costs: CPU per span and line, memory and answers with a million of each, CPU per order.

`python -m bench.telemetry [FILE]` measures this alone, and writes the figures to FILE. Orders are placed in one shop
with its own store and in one that sends nothing and whose store is stopped (SIGSTOP): its memory is there, it uses no
CPU. Loads take turns.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import SEVERITY_NUMBER_ERROR, SEVERITY_NUMBER_INFO
from opentelemetry.proto.trace.v1 import trace_pb2

from bench import contenders, costs, report
from bench.contenders import Product
from bench.load import Order, percentile
from services.cli.identity import access_token
from services.cli.places import token_url
from tests.support.telemetry import Telemetry

SPANS, LINES, ROUNDS, SECONDS, ASKED = 1_000_000, 1_000_000, 3, 5.0, 50
SHARES = (10, 100)
"""Of traces that are sampled, in percent."""
TRACE, BATCH, LINES_OF_A_TRACE = 14, 504, 8
"""Spans of an order's trace; of a request; lines beside it."""
_SETTLED_S = 2.5
"""Until everything that an order caused has been sent and written."""
_WAITING = 2 << 20
_TEMPLATE = [
    ("envoy", "ingress", {"http.method": "POST", "upstream_cluster": "order", "http.status_code": "200"}),
    ("order", "shop.order.v1.OrderService/PlaceOrder", {"rpc.system.name": "grpc", "shop.order": "{order}"}),
    ("order", "SELECT orders", {"db.system.name": "postgresql", "db.query.summary": "SELECT orders"}),
    ("product", "shop.product.v1.ProductService/BatchGetProducts", {"rpc.system.name": "grpc"}),
    ("inventory", "shop.inventory.v1.InventoryService/ReserveStock", {"shop.order": "{order}"}),
]

type Found = dict[str, Any]


class Store:
    """A store of its own, and what it is sent."""

    def __init__(self, folder: Path) -> None:
        (folder / "logs").mkdir(parents=True)
        self.server = Telemetry(folder, folder / "logs").start()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self.server.other_ports[0]}")
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.server.port}", trust_env=False, timeout=60)
        self.traces: list[str] = []

    def close(self) -> None:
        self._http.close()
        self._channel.close()
        self.server.stop()

    def send_spans(self, count: int) -> Found:
        """Of traces like an order's, from five services."""
        return self._sent("trace.v1.TraceService", self._spans(count), count)

    def send_lines(self, count: int) -> Found:
        """Such as services write about a call."""
        return self._sent("logs.v1.LogsService", _lines(count), count)

    def tail_lines(self, count: int) -> Found:
        """The same from a file, as the services of a shop write it."""
        before, rest = self._cpu(), count
        with (self.server.folder / "logs" / "order-1.jsonl").open("ab") as file:
            while rest > 0:
                file.write(b"".join(_json_lines(min(rest, BATCH))))
                file.flush()
                rest -= BATCH
                time.sleep(0.02)
        until = time.monotonic() + 600
        while self._status("lines") < count:
            if time.monotonic() > until:
                raise RuntimeError("the store has not read all lines: no figure counts")
            time.sleep(0.2)
        return {"count": count, "us": (self._cpu() - before) / count * 1e6}

    def ask(self, path: str) -> float:
        """Seconds until an answer has come."""
        begun = time.perf_counter()
        self._http.get(path).raise_for_status()
        return time.perf_counter() - begun

    def pss_mb(self) -> float:
        return sum(costs.pss_mib({"store": self.server.pid}).values()) * 2**20 / 1e6

    def kept_mb(self) -> float:
        return sum(file.stat().st_size for file in (self.server.folder / "telemetry").iterdir()) / 1e6

    def _sent(self, service: str, requests: Iterator[bytes], count: int) -> Found:
        export: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            f"/opentelemetry.proto.collector.{service}/Export"
        )
        before, begun, largest = self._cpu(), time.monotonic(), 0.0
        for number, request in enumerate(requests):
            if export(request, timeout=60):
                raise RuntimeError("the store has dropped what it was sent: no figure counts")
            if number % 20 == 0:
                largest = max(largest, self.pss_mb())
            if number % 5 == 0:  # it shall keep up, so that nothing is dropped
                self._until_at_most(_WAITING)
        self._until_at_most(0)
        took_s, used_s = time.monotonic() - begun, self._cpu() - before
        return {"count": count, "us": used_s / count * 1e6, "per_second": count / took_s, "most_mb": largest}

    def _spans(self, count: int) -> Iterator[bytes]:
        for _ in range(0, count, BATCH):
            request = ExportTraceServiceRequest()
            services = dict.fromkeys(service for service, _, _ in _TEMPLATE)
            into = {service: request.resource_spans.add() for service in services}
            for service, resource in into.items():
                resource.resource.attributes.append(_pair("service.name", service))
                resource.scope_spans.add()
            for _ in range(BATCH // TRACE):
                trace, order = random.randbytes(16), _order()
                self.traces.append(trace.hex())
                for number in range(TRACE):
                    service, name, attributes = _TEMPLATE[number % len(_TEMPLATE)]
                    into[service].scope_spans[0].spans.add(
                        trace_id=trace, span_id=random.randbytes(8), parent_span_id=random.randbytes(8), name=name,
                        kind=trace_pb2.Span.SPAN_KIND_SERVER, start_time_unix_nano=time.time_ns() - 9_000_000,
                        end_time_unix_nano=time.time_ns(),
                        attributes=[_pair(key, value.format(order=order)) for key, value in attributes.items()],
                    )  # fmt: skip
            yield request.SerializeToString()

    def _until_at_most(self, waiting_bytes: int) -> None:
        while self._status("waiting_bytes") > waiting_bytes:
            time.sleep(0.05)  # each look costs the store CPU, which is counted

    def _status(self, name: str) -> int:
        return int(self._http.get("/api/status").raise_for_status().json()[name])

    def _cpu(self) -> float:
        return sum(costs.cpu_seconds({"store": self.server.pid}).values())


def _lines(count: int) -> Iterator[bytes]:
    for first in range(0, count, BATCH):
        request = ExportLogsServiceRequest()
        resource = request.resource_logs.add()
        resource.resource.attributes.append(_pair("service.name", "order"))
        records = resource.scope_logs.add().log_records
        trace, order = b"", ""
        for number in range(first, min(first + BATCH, count)):
            if number % LINES_OF_A_TRACE == 0:
                trace, order = random.randbytes(16), _order()
            rare = number % 100_000 == 7
            record = records.add(
                time_unix_nano=time.time_ns(), trace_id=trace, span_id=random.randbytes(8),
                severity_number=SEVERITY_NUMBER_ERROR if rare else SEVERITY_NUMBER_INFO,
                attributes=[
                    _pair("order", order), _pair("method", "shop.order.v1.OrderService/PlaceOrder"),
                    _pair("code", "OUT_OF_STOCK" if number % 50 == 0 else "OK"), _pair("took_ms", str(number % 90)),
                ],
            )  # fmt: skip
            record.body.string_value = "somebody spilled tea over a rack" if rare else "call"
        yield request.SerializeToString()


def _json_lines(count: int) -> Iterator[bytes]:
    """As a file has them."""
    trace = order = ""
    for number in range(count):
        if number % LINES_OF_A_TRACE == 0:
            trace, order = random.randbytes(16).hex(), _order()
        about = {
            "time": "2026-11-29T07:00:00.123456Z", "level": "info", "service": "order", "instance": "order-1",
            "message": "call", "trace_id": trace, "span_id": random.randbytes(8).hex(), "order": order,
            "method": "shop.order.v1.OrderService/PlaceOrder", "code": "OK", "took_ms": number % 90,
        }  # fmt: skip
        yield json.dumps(about, separators=(",", ":")).encode() + b"\n"


def _order() -> str:
    digits = random.randbytes(16).hex()
    return f"orders/{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _pair(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def measure_store(folder: Path, spans: int, lines: int) -> Found:
    """CPU, memory, and how long questions take."""
    store = Store(folder)
    try:
        found: Found = {"pss_at_start_mb": store.pss_mb(), "tail": store.tail_lines(max(1000, lines // 10))}
        _say("tail", found["tail"])
        for name, send, count in (("spans", store.send_spans, spans), ("lines", store.send_lines, lines)):
            found[name] = {**send(count), "pss_mb": store.pss_mb(), "disk_mb": store.kept_mb()}
            _say(name, found[name])
        chosen = random.sample(store.traces, min(ASKED, len(store.traces)))
        questions: dict[str, Callable[[int], str]] = {
            "one trace": lambda at: f"/api/traces/{chosen[at % len(chosen)]}",
            "a rare word": lambda _: "/api/logs?text=spilled",
            "a frequent word": lambda _: "/api/logs?text=placeorder",
            "the beginning of a word": lambda _: "/api/logs?text=out_of_st",
            "two words": lambda _: "/api/logs?text=tea%20rack",
            "no such word": lambda _: "/api/logs?text=giraffe",
            "errors": lambda _: "/api/logs?level=error",
            "newest traces of a service": lambda _: "/zipkin/api/v2/traces?serviceName=inventory&limit=10",
        }
        found["answers_ms"] = {}
        for name, question in questions.items():
            took = sorted(store.ask(question(at)) for at in range(ASKED))
            found["answers_ms"][name] = {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}
            print(f"  {name:28} p50 {percentile(took, 0.5):6.1f} ms  p99 {percentile(took, 0.99):6.1f} ms", flush=True)
        found["pss_asked_mb"] = store.pss_mb()
        return found
    finally:
        store.close()


def _say(name: str, row: Found) -> None:
    print(f"  {name:6} " + "  ".join(f"{key} {value:.1f}" for key, value in row.items()), flush=True)


def measure_orders(folder: Path, rounds: int, seconds: float) -> list[Found]:
    """PlaceOrder at concurrency 16: nothing sent and nothing stored, and the store at each share of traces."""
    rows: list[Found] = []
    with ExitStack() as held:
        none = Product(contenders.stocked_shop(held, folder / "none", {"SHOPMESH_OTLP_ENDPOINT": ""}), 0)
        # It would still read the log files.
        os.kill(none.pids()["telemetry"], signal.SIGSTOP)
        held.callback(os.kill, none.pids()["telemetry"], signal.SIGCONT)
        own = contenders.stocked_shop(held, folder / "own", own_store=True)
        contending = [("off", none), *((f"{share} %", Product(own, share)) for share in SHARES)]
        for number in range(-1, rounds):  # the first of each is nobody's figure
            for name, contender in contending[:: 1 if number % 2 else -1]:
                row = {"contender": name, "round": number, **_orders(contender, seconds if number >= 0 else 2.0)}
                rows += [row] if number >= 0 else []
    return rows


def _orders(contender: Product, seconds: float) -> Found:
    contender.ready()
    tokens = [access_token(token_url(contenders.issuer_of(contender.shop)), user) for user in ("ann", "bob")]
    time.sleep(_SETTLED_S)
    pids = contender.pids()
    before = costs.cpu_seconds(pids)
    got = Order(contender.calls["PlaceOrder"], tokens, 16, 0.0, seconds).sent()
    contenders.drain(contender)
    time.sleep(_SETTLED_S)
    after = costs.cpu_seconds(pids)
    cpu = {role: after[role] - before[role] for role in pids}
    row = {"call": "PlaceOrder", "concurrency": 16, **got, "cpu": cpu, "outside": [*contender.outside]}
    store = cpu.get("telemetry", 0) / got["calls"] * 1000
    print(
        f"  {contender.sampling_percent:3} %  {got['per_second']:5.0f}/s  p50 {got['p50']:6.1f} ms"
        f"  CPU s/1000: {report.everything(row):.2f}, of it the store {store:.2f}",
        flush=True,
    )
    return row


def measure(spans: int = SPANS, lines: int = LINES, rounds: int = ROUNDS, seconds: float = SECONDS) -> Found:
    """All of it."""
    folder = Path(tempfile.mkdtemp(prefix="shopmesh-bench-telemetry-"))
    folder.chmod(0o755)
    try:
        found = {"store": measure_store(folder / "store", spans, lines)} if spans else {}
        return {**found, **({"orders": measure_orders(folder, rounds, seconds)} if rounds else {})}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Measures, tells, and leaves nothing running."""
    parser = argparse.ArgumentParser(prog="python -m bench.telemetry", description="Measure what telemetry costs.")
    parser.add_argument("--spans", type=int, default=SPANS, help="0: only what orders cost")
    parser.add_argument("--lines", type=int, default=LINES)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="0: only the store")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("file", type=Path, nargs="?")
    options = parser.parse_args()
    found = measure(options.spans, options.lines, options.rounds, options.seconds)
    if options.file:
        options.file.write_text(json.dumps({"telemetry": found}, indent=1))
    print(report.telemetry(found))


if __name__ == "__main__":
    main()
