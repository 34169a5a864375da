"""Log lines that go to a collector elsewhere: a real one over gRPC, in the process of the tests."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber

from services.chassis.otlp_lines import encoded
from services.cli.local.logs import LogFile
from services.cli.telemetry.log_search import Away, Store, Wanted
from services.log_files import Line
from services.telemetry import otlp
from services.telemetry.forward import Forward
from services.telemetry.tail import Tail
from tests.support.ports import free_port
from tests.support.telemetry import Telemetry
from tests.support.waiting import eventually

LINE = Line(
    id=0,
    time_ns=1795935600123456000,
    level="warning",
    service="order",
    instance="order-2",
    message="order rejected",
    trace_id="0af7651916cd43dd8448eb211c80319c",
    span_id="b7ad6b7169203331",
    order="orders/6d1e4c0a-2f9b-5b7e-9a54-0f6f8a2f3c11",
    fields={"reason": "OUT_OF_STOCK", "ms": 1.5, "n": 3, "big": 2**70, "ok": True, "at": [1, {"a": "b"}], "no": None},
)


class Marks:
    """Where the marks are kept."""

    has_room = True

    def __init__(self) -> None:
        self.marks: list[tuple[str, int, int]] = []

    def put_lines(self, lines: Sequence[Line], mark: tuple[str, int, int]) -> bool:
        assert not lines
        self.marks.append(mark)
        return True


class Collector(logs_service_pb2_grpc.LogsServiceServicer):
    def __init__(self) -> None:
        self.requests: list[ExportLogsServiceRequest] = []
        self.refuse: grpc.StatusCode | None = None
        self.endpoint = ""

    def Export(  # noqa: N802, the name of the rpc
        self, request: ExportLogsServiceRequest, context: grpc.ServicerContext
    ) -> ExportLogsServiceResponse:
        if self.refuse:
            context.abort(self.refuse, "not now")
        self.requests.append(request)
        return ExportLogsServiceResponse()

    @property
    def said(self) -> list[str]:
        return [
            record.body.string_value
            for request in self.requests
            for source in request.resource_logs
            for scope in source.scope_logs
            for record in scope.log_records
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector, server = Collector(), grpc.server(ThreadPoolExecutor(max_workers=2))
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield collector
    server.stop(None).wait()


def test_a_line_is_a_record_as_otlp_has_it() -> None:
    request = encoded([LINE, LINE._replace(level="error", trace_id="", span_id="", order=""), LINE], 7)

    (source,) = request.resource_logs
    assert otlp.attributes(source.resource.attributes) == {"service.name": "order", "service.instance.id": "order-2"}
    first, second, _ = source.scope_logs[0].log_records
    assert (first.time_unix_nano, first.observed_time_unix_nano) == (LINE.time_ns, 7)
    assert (first.severity_number, first.severity_text) == (SeverityNumber.SEVERITY_NUMBER_WARN, "WARN")
    assert first.body.string_value == "order rejected"
    assert (first.trace_id.hex(), first.span_id.hex()) == (LINE.trace_id, LINE.span_id)
    assert otlp.attributes(first.attributes) == {
        "order": LINE.order, "reason": "OUT_OF_STOCK", "ms": 1.5, "n": 3, "big": str(2**70), "ok": True,
        "at": [1, {"a": "b"}],
    }  # fmt: skip
    assert (second.severity_number, second.trace_id, second.span_id) == (17, b"", b"")


def test_the_store_reads_back_what_is_sent() -> None:
    (line,) = otlp.lines(encoded([LINE], 7))

    assert line._replace(fields={}) == LINE._replace(fields={})


def test_lines_wait_in_the_files_while_the_collector_is_away(collector: Collector, tmp_path: Path) -> None:
    marks = Marks()
    with (
        closing(LogFile(tmp_path, "order", max_bytes=500)) as log,
        closing(Forward(collector.endpoint, marks)) as forward,
    ):
        tail = Tail(tmp_path, {}, forward)
        for number, refusal in enumerate((None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, None)):
            collector.refuse = refusal
            forward._again = 0.0  # the pause is over
            log.write(b"%d\n" % number)
            tail.look()
            assert forward.has_room == (refusal is None)

    assert collector.said == ["0", "1", "2", "3"]
    assert len(marks.marks) == 2


def test_what_the_collector_refuses_for_good_holds_up_nothing(collector: Collector) -> None:
    marks = Marks()
    with closing(Forward(collector.endpoint, marks)) as forward:
        collector.refuse = grpc.StatusCode.INVALID_ARGUMENT
        assert forward.put_lines([LINE], ("order", 1, 2))
        collector.refuse = None
        assert forward.put_lines([LINE], ("order", 1, 3))

    assert (len(collector.said), marks.marks) == (1, [("order", 1, 2), ("order", 1, 3)])


def test_a_dead_collector_costs_one_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Forward(f"http://127.0.0.1:{free_port()}", Marks())) as forward:
        for _ in range(3):
            assert not forward.put_lines([LINE], ("order", 1, 2))

    (line,) = capsys.readouterr().out.splitlines()
    assert "log lines wait for the collector" in line


async def test_where_a_collector_is_named_lines_go_there_and_the_command_is_told(
    collector: Collector, tmp_path: Path
) -> None:
    with closing(LogFile(tmp_path / "logs", "order")) as log:
        log.write(b"one\ntwo\n")
    telemetry = Telemetry(tmp_path, tmp_path / "logs", {"SHOPMESH_OTLP_ENDPOINT": collector.endpoint}).start()

    async def arrived() -> bool:
        return collector.said == ["one", "two"]

    try:
        await eventually(arrived, "the lines are with the collector")
        with closing(Store(f"127.0.0.1:{telemetry.port}")) as store, pytest.raises(Away, match=collector.endpoint):
            store.newest(Wanted())
    finally:
        telemetry.stop()
