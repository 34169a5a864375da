"""Spans cost their process nothing while nobody takes them: the endpoint is dead, frozen, or refuses."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from services.chassis import sending
from services.chassis.otlp import encode
from services.chassis.sending import BATCH, MOST_WAITING, Sender
from tests.support.otlp import receiving
from tests.support.ports import free_ports
from tests.support.waiting import eventually

MANY = 3 * MOST_WAITING
TRACE = 1 << 100
NOBODY = Resource.get_empty()


def span(number: int, name: str = "a span") -> ReadableSpan:
    at = SpanContext(TRACE, number + 1, is_remote=False, trace_flags=TraceFlags(1))
    return ReadableSpan(name, at, resource=NOBODY, start_time=1, end_time=2)


@contextmanager
def sender(endpoint: str) -> Iterator[Sender[ReadableSpan]]:
    sender = Sender(endpoint, encode)
    try:
        yield sender
    finally:
        sender.close()


class Refusing(trace_service_pb2_grpc.TraceServiceServicer):
    """Answers with this code; with none it takes all but seven spans."""

    def __init__(self, code: grpc.StatusCode | None) -> None:
        self._code = code

    def Export(  # noqa: N802, the name of the rpc
        self, _: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        if self._code:
            context.abort(self._code, "no")
        response = trace_service_pb2.ExportTraceServiceResponse()
        response.partial_success.rejected_spans = 7
        return response


@contextmanager
def refusing(code: grpc.StatusCode | None) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Refusing(code), server)  # type: ignore[no-untyped-call]  # published without
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def full() -> Iterator[str]:
    with refusing(grpc.StatusCode.RESOURCE_EXHAUSTED) as endpoint:
        yield endpoint


@contextmanager
def frozen() -> Iterator[str]:
    """Accepts, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def dead() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_ports(1)}"


def dropped(reason: str) -> float:
    found = {(labels["signal"], labels["reason"]): number for labels, number in sending._dropped.numbers()}
    return found.get(("traces", reason), 0)


@pytest.mark.parametrize("endpoint", [dead, frozen, full])
async def test_what_nobody_takes_is_dropped_at_once_and_told_while_it_lasts(
    endpoint: Callable[[], AbstractContextManager[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    before, said = dropped("queue full"), ""
    with endpoint() as url, sender(url) as to_nobody:
        begun = time.monotonic()
        for number in range(MANY):
            to_nobody.put(span(number))
        took_s = time.monotonic() - begun

        async def counted() -> bool:
            return dropped("queue full") - before >= MANY - MOST_WAITING - 2 * BATCH

        await eventually(counted, "that they are counted")

        async def told() -> bool:
            nonlocal said
            said += capsys.readouterr().out
            return "spans were dropped" in said

        await eventually(told, "the line")

    assert took_s < sending.ANSWER_S  # waiting for one answer would take that long, and there are 24 batches
    assert said.count("spans were dropped") == 1
    assert capsys.readouterr().out.count("spans were dropped") == 1  # what was left at the end


def test_every_span_that_did_not_arrive_is_counted_when_it_ends() -> None:
    def lost() -> float:
        return sum(number for _, number in sending._dropped.numbers())

    before = lost()
    with dead() as url, sender(url) as to_nobody:
        for number in range(10):
            to_nobody.put(span(number))

    assert lost() - before == 10


async def test_a_span_that_cannot_be_written_costs_its_batch_and_not_those_that_follow() -> None:
    before = dropped("unwritable")
    with receiving() as receiver, sender(receiver.endpoint) as careless:
        careless.put(span(1, name="\ud800"))

        async def counted() -> bool:
            return dropped("unwritable") == before + 1

        await eventually(counted, "the one that is lost")
        careless.put(span(2))

        async def arrived() -> bool:
            return bool(receiver.trace(f"{TRACE:032x}"))

        await eventually(arrived, "the next one")


async def test_no_proxy_comes_between(monkeypatch: pytest.MonkeyPatch) -> None:
    with dead() as proxy:
        monkeypatch.setenv("http_proxy", proxy)
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with receiving() as receiver, sender(receiver.endpoint) as direct:
        direct.put(span(1))

        async def arrived() -> bool:
            return bool(receiver.trace(f"{TRACE:032x}"))

        await eventually(arrived, "the span")


async def test_the_newest_spans_arrive_when_the_endpoint_comes_back() -> None:
    port = free_ports(1)
    with sender(f"http://127.0.0.1:{port}") as patient:
        for number in range(MANY):
            patient.put(span(number))
        with receiving(port) as receiver:

            async def arrived() -> bool:
                return MANY in {int(each.span_id, 16) for each in receiver.trace(f"{TRACE:032x}")}

            await eventually(arrived, "the last span")
            came = receiver.trace(f"{TRACE:032x}")
    assert MOST_WAITING <= len(came) == len({each.span_id for each in came}) <= MOST_WAITING + BATCH


async def test_what_a_store_takes_only_in_part_counts_as_dropped() -> None:
    before = dropped("rejected")
    with refusing(None) as endpoint, sender(endpoint) as trusting:
        trusting.put(span(1))

        async def counted() -> bool:
            return dropped("rejected") == before + 7

        await eventually(counted, "seven more")
