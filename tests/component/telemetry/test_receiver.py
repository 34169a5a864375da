"""OTLP as it really comes: from OpenTelemetry's own exporters, raw, hostile, huge, and cut off."""

import gzip
import os
import socket
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from google.rpc import code_pb2, status_pb2
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

from services.chassis.settings import CannotStart
from services.telemetry.__main__ import Places
from tests.support.telemetry_server import TelemetryServer
from tests.support.waiting import eventually

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
PROTOBUF = {"content-type": "application/x-protobuf"}
MOST_BYTES = 4 << 20


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TelemetryServer]:
    store = TelemetryServer(tmp_path_factory.mktemp("telemetry")).start()
    yield store
    store.stop()


@pytest.fixture(scope="module", autouse=True)
def one_process(store: TelemetryServer) -> Iterator[None]:
    """Whatever it is sent, the process answers and has raised nothing."""
    yield
    assert store.ask("/").status_code == 200
    assert "Traceback" not in store.said()


def request(trace: int, *names: str) -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    about = made.resource_spans.add()
    about.resource.attributes.append(KeyValue(key="service.name", value=AnyValue(string_value="raw")))
    for number, name in enumerate(names):
        about.scope_spans.add().spans.add(
            trace_id=trace.to_bytes(16), span_id=(number + 1).to_bytes(8), name=name,
            start_time_unix_nano=time.time_ns(), end_time_unix_nano=time.time_ns(),
        )  # fmt: skip
    return made


def send(
    store: TelemetryServer, data: bytes, compression: grpc.Compression | None = None, method: str = EXPORT
) -> bytes | grpc.StatusCode:
    with grpc.insecure_channel(store.otlp) as channel:
        export: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        try:
            return export(data, timeout=30, compression=compression)
        except grpc.RpcError as error:
            return error.code()


def post(store: TelemetryServer, data: bytes, path: str = "/v1/traces", **headers: str) -> httpx.Response:
    about = {**PROTOBUF, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.post(f"{store.otlp_http}{path}", content=data, headers=about, trust_env=False, timeout=30)


async def kept(store: TelemetryServer, trace: int, spans: int = 1) -> None:
    async def there() -> bool:
        return len(store.trace(f"{trace:032x}")) == spans

    await eventually(there, f"{spans} spans of trace {trace}")


def pss_mb(store: TelemetryServer) -> float:
    return float(psutil.Process(store.pid).memory_full_info().pss) / 1e6


def test_it_is_small(store: TelemetryServer) -> None:
    assert store.ask("/").status_code == 200

    assert pss_mb(store) < 60


@pytest.mark.parametrize("door", ["grpc", "grpc gzip", "http", "http gzip", "http deflate"])
async def test_spans_of_opentelemetrys_own_exporters_are_kept(store: TelemetryServer, door: str) -> None:
    exporter: SpanExporter
    if door.startswith("grpc"):
        packed = grpc.Compression.Gzip if "gzip" in door else grpc.Compression.NoCompression
        exporter = GrpcSpans(f"http://{store.otlp}", compression=packed)
    else:
        exporter = HttpSpans(f"{store.otlp_http}/v1/traces", compression=Compression(door.partition(" ")[2] or "none"))
    about = Resource({"service.name": "theirs", "service.instance.id": door})
    provider = TracerProvider(resource=about, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("test").start_as_current_span("outer", attributes={"n": 7}) as outer:
        outer.add_event("stumbled")
    provider.shutdown()

    trace_id = f"{outer.get_span_context().trace_id:032x}"

    async def found() -> bool:
        return bool(store.trace(trace_id))

    await eventually(found, "the span")
    (span,) = store.trace(trace_id)
    assert (span["service"], span["instance"], span["name"]) == ("theirs", door, "outer")
    assert span["attributes"] == {"n": 7}
    assert [event["name"] for event in span["events"]] == ["stumbled"]


@pytest.mark.parametrize("door", ["grpc", "http"])
async def test_log_records_of_opentelemetrys_own_exporters_are_kept(store: TelemetryServer, door: str) -> None:
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

    exporter = (
        GrpcLogs(f"http://{store.otlp}", insecure=True) if door == "grpc" else HttpLogs(f"{store.otlp_http}/v1/logs")
    )
    provider = LoggerProvider(resource=Resource({"service.name": "theirs"}), shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    provider.get_logger("test").emit(
        LogRecord(
            timestamp=time.time_ns(), severity_number=SeverityNumber.WARN, body=f"spilled by{door}",
            attributes={"mug": "blue"},
        )
    )  # fmt: skip
    provider.shutdown()

    async def found() -> bool:
        return bool(store.lines(f"by{door}"))

    await eventually(found, "the line")
    (line,) = store.lines(f"by{door}")
    assert (line["service"], line["level"], line["message"]) == ("theirs", "warning", f"spilled by{door}")
    assert line["fields"] == {"mug": "blue"}


def deep() -> bytes:
    """A value in a list in a list, a thousand times."""
    value = AnyValue(string_value="x").SerializeToString()
    for _ in range(1000):
        value = b"\x0a" + _length(value) + value  # ArrayValue.values
        value = b"\x2a" + _length(value) + value  # AnyValue.array_value
    pair = b"\x0a\x01k\x12" + _length(value) + value
    resource = b"\x0a" + _length(pair) + pair
    within = b"\x0a" + _length(resource) + resource
    return b"\x0a" + _length(within) + within


def _length(data: bytes) -> bytes:
    number, encoded = len(data), b""
    while number > 127:
        encoded, number = encoded + bytes((number & 127 | 128,)), number >> 7
    return encoded + bytes((number,))


WHOLE = request(1, "Place").SerializeToString()


@pytest.mark.parametrize(
    "data",
    [WHOLE[:-3], b"\xff" * 50, b'{"resourceSpans": []}', deep()],
    ids=["cut off", "garbage", "JSON", "nested too deep"],
)
def test_what_is_no_otlp_is_an_invalid_argument(store: TelemetryServer, data: bytes) -> None:
    assert send(store, data) is grpc.StatusCode.INVALID_ARGUMENT
    answer = post(store, data)
    assert answer.status_code == 400
    told = status_pb2.Status.FromString(answer.content)  # OTLP/HTTP: the body of a failure is a Status
    assert told.code == code_pb2.INVALID_ARGUMENT
    assert "cannot be decoded" in told.message


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"{}", {"content_type": "application/json"}, 415),
        (WHOLE, {"content_type": "text/plain"}, 415),
        (WHOLE, {"content_encoding": "br"}, 415),
        (WHOLE, {"content_encoding": "gzip"}, 400),
        (gzip.compress(WHOLE)[:-9], {"content_encoding": "gzip"}, 400),
        (b"x" * (MOST_BYTES + 1), {}, 413),
        (gzip.compress(bytes(50 * MOST_BYTES), 1), {"content_encoding": "gzip"}, 413),
        (zlib.compress(bytes(50 * MOST_BYTES), 1), {"content_encoding": "deflate"}, 413),
    ],
    ids=["JSON", "text", "br", "no gzip", "half a gzip", "large", "large once unpacked", "large once inflated"],
)
def test_what_is_not_understood_over_http_is_refused(
    store: TelemetryServer, data: bytes, headers: dict[str, str], status: int
) -> None:
    assert post(store, data, **headers).status_code == status


async def test_a_request_that_is_cut_off_is_counted_and_nothing_more(store: TelemetryServer) -> None:
    with socket.create_connection(("127.0.0.1", store.other_ports[1]), timeout=30) as half:
        head = "POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        half.sendall(f"{head}Content-Type: {PROTOBUF['content-type']}\r\n\r\nonly this".encode())

    async def counted() -> bool:
        return "cut off" in store.ask("/").text

    await eventually(counted, "the refusal")
    assert "Exception in ASGI" not in store.said()


def test_connections_are_bounded_and_free_again(store: TelemetryServer) -> None:
    with ExitStack() as many:
        for _ in range(70):
            many.enter_context(socket.create_connection(("127.0.0.1", store.other_ports[1]), timeout=30))
        assert post(store, WHOLE).status_code == 503


def test_a_page_of_another_name_cannot_write(store: TelemetryServer) -> None:
    assert post(store, WHOLE, host="evil.test:4318").status_code == 421


def test_only_otlp_is_at_its_ports(store: TelemetryServer) -> None:
    assert post(store, WHOLE, path="/v1/else").status_code == 404
    assert httpx.get(f"{store.otlp_http}/v1/traces", trust_env=False).status_code == 405
    with grpc.insecure_channel(store.otlp) as channel:
        unknown: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/else/Export")
        with pytest.raises(grpc.RpcError) as refused:
            unknown(b"", timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_who_asks_every_second_whether_it_is_there_keeps_its_connection(store: TelemetryServer) -> None:
    """Envoy asks every five (clusters.py), mostly with no export under way. The fourth would end it by default."""
    nothing, ping = bytes(9), b"\0\0\x08\x06\0\0\0\0\0" + b"are you?"  # RFC 9113: 4.1, 6.7
    settings = nothing[:3] + b"\x04" + nothing[4:]
    host, _, port = store.otlp.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection, connection.makefile("rb") as answers:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
        for _ in range(5):
            connection.sendall(ping)
            kind, flags = None, 0
            while (kind, flags) != (6, 1):
                head = answers.read(9)
                kind, flags = head[3], head[4]
                assert kind != 7, answers.read(int.from_bytes(head[:3]))  # GOAWAY, and why
                answers.read(int.from_bytes(head[:3]))
            time.sleep(1.1)  # what is tested: the pace


def test_huge_requests_are_refused_also_when_they_are_packed_small(store: TelemetryServer) -> None:
    huge = request(2, "x" * MOST_BYTES).SerializeToString()
    assert send(store, huge) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert send(store, huge, grpc.Compression.Gzip) is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_a_million_empty_log_records_of_one_request_are_refused(store: TelemetryServer, door: str) -> None:
    empty = b"\x12\x00" * 1_000_000
    data = b"\x0a" + _length(scope := b"\x12" + _length(empty) + empty) + scope
    if door == "grpc":
        answer = send(store, data, method=LOGS)
        assert isinstance(answer, bytes)
    else:
        answer = post(store, data, path="/v1/logs").content
    told = ExportLogsServiceResponse.FromString(answer).partial_success
    assert (told.rejected_log_records, told.error_message) == (1_000_000, "more than 20000 records in one request")
    assert pss_mb(store) < 150
    assert "too many" in store.ask("/").text


async def test_the_sound_part_of_a_request_is_kept_and_the_rest_told(store: TelemetryServer) -> None:
    half = request(3, "Place", "without ids")
    half.resource_spans[0].scope_spans[1].spans[0].ClearField("span_id")
    for data in (send(store, half.SerializeToString()), post(store, half.SerializeToString()).content):
        assert isinstance(data, bytes)
        told = ExportTraceServiceResponse.FromString(data).partial_success
        assert (told.rejected_spans, told.error_message) == (1, "ids invalid")
    await kept(store, 3, 2)
    assert "ids invalid" in store.ask("/").text


async def test_hostile_spans_are_kept_as_they_are(store: TelemetryServer) -> None:
    hostile = request(4, "<script>\0\u202e'; drop table spans; --")
    span = hostile.resource_spans[0].scope_spans[0].spans[0]
    span.kind = 4711  # type: ignore[assignment]  # proto3 enums are open
    span.status.code = -1  # type: ignore[assignment]
    span.start_time_unix_nano, span.end_time_unix_nano = 2**64 - 1, 0
    span.attributes.append(KeyValue(key="", value=AnyValue(string_value="x" * 100_000)))
    span.links.add(trace_id=b"odd", span_id=b"")
    assert isinstance(send(store, hostile.SerializeToString()), bytes)
    await kept(store, 4)
    (read,) = store.trace(f"{4:032x}")
    assert read["name"] == span.name


async def test_records_without_time_service_or_text_are_kept(store: TelemetryServer) -> None:
    bare = ExportLogsServiceRequest()
    bare.resource_logs.add().scope_logs.add().log_records.add(
        attributes=[KeyValue(key="only", value=AnyValue(string_value="barewords"))]
    )
    assert post(store, bare.SerializeToString(), path="/v1/logs").status_code == 200

    async def found() -> bool:
        return [line["service"] for line in store.lines("barewords")] == ["unknown_service"]

    await eventually(found, "the line")


async def test_a_disk_that_takes_nothing_costs_spans_and_not_the_process(store: TelemetryServer) -> None:
    store.let_files_grow_to(1)
    try:
        assert isinstance(send(store, request(5, *["Place"] * 200).SerializeToString()), bytes)

        async def told() -> bool:
            return "not written" in store.ask("/").text

        await eventually(told, "that spans were not written")
    finally:
        store.let_files_grow_to(-1)
    assert isinstance(send(store, request(6, "Place").SerializeToString()), bytes)
    await kept(store, 6)


async def test_what_a_flood_took_is_given_back(store: TelemetryServer) -> None:
    async def small() -> bool:
        used = pss_mb(store)
        assert used < 75, f"{used:.0f} MB"
        return True

    await eventually(small, "less than 75 MB")


async def test_killed_while_it_writes_it_has_lost_nothing_that_was_written(store: TelemetryServer) -> None:
    assert isinstance(send(store, request(7, "Place").SerializeToString()), bytes)
    await kept(store, 7)
    for number in range(20):
        send(store, request(100 + number, *["Place"] * 100).SerializeToString())
    store.kill()
    store.start()

    assert len(store.trace(f"{7:032x}")) == 1
    assert {len(store.trace(f"{100 + number:032x}")) for number in range(20)} <= {0, 100}
    assert isinstance(send(store, request(8, "Place").SerializeToString()), bytes)
    await kept(store, 8)


@pytest.mark.parametrize("bound", ["inf", "nan", "0", "1e16", "much"])
def test_a_bound_that_is_none_is_named(tmp_path: Path, bound: str) -> None:
    env = {**os.environ, "SHOPMESH_TELEMETRY_MAX_BYTES": bound, "SHOPMESH_TELEMETRY_DIR": str(tmp_path)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", env)
        with pytest.raises(CannotStart, match="SHOPMESH_TELEMETRY_MAX_BYTES must be a number above 0"):
            Places.read()


def test_a_port_that_is_taken_is_named(store: TelemetryServer, tmp_path: Path) -> None:
    beside = TelemetryServer(tmp_path)
    beside.port, beside.other_ports = store.port, store.other_ports
    ended = subprocess.run(beside.command(), cwd="/", capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert f"SHOPMESH_OTLP_LISTEN={store.otlp} cannot be bound" in ended.stdout
