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


def span(number: int) -> ReadableSpan:
    at = SpanContext(TRACE, number + 1, is_remote=False, trace_flags=TraceFlags(1))
    return ReadableSpan("a span", at, resource=NOBODY, start_time=1, end_time=2)


@contextmanager
def sender(endpoint: str) -> Iterator[Sender]:
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


def dropped() -> dict[str, float]:
    return {str(labels["reason"]): number for labels, number in sending._dropped.numbers()}


@pytest.mark.parametrize("endpoint", [dead, frozen, full])
def test_what_nobody_takes_is_dropped_at_once_and_told_once(
    endpoint: Callable[[], AbstractContextManager[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = dropped().get("queue full", 0)
    with endpoint() as url, sender(url) as to_nobody:
        begun = time.monotonic()
        for number in range(MANY):
            to_nobody.put(span(number))
        took_s = time.monotonic() - begun

    assert took_s < sending.ANSWER_S  # waiting for one answer would take that long, and there are 24 batches
    assert dropped()["queue full"] - before >= MANY - MOST_WAITING - 2 * BATCH
    assert capsys.readouterr().out.count("spans were dropped") == 1


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
    before = dropped().get("rejected", 0)
    with refusing(None) as endpoint, sender(endpoint) as trusting:
        trusting.put(span(1))

        async def counted() -> bool:
            return dropped().get("rejected", 0) == before + 7

        await eventually(counted, "seven more")
