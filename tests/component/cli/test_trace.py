"""`shopmesh trace` asks the pages."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import UUID, uuid4

import httpx
import pytest
import uvicorn
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from services.cli.telemetry.trace import asked, client, pictures
from services.failure import Failure
from services.telemetry.model import SpanLink
from services.telemetry.web import Place, application
from tests.support.ports import free_port
from tests.support.told_store import A_LINE, A_SPAN, BEGAN_NS, MS, ORDER, TRACE, ToldStore

ID, LATER, OTHERS = UUID(ORDER[7:]), "ab" * 16, "cd" * 16


@contextmanager
def served(pages: ASGIApp) -> Iterator[httpx.Client]:
    """What asks these pages, which are at work in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(pages, lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            with client(f"http://127.0.0.1:{listening.getsockname()[1]}") as http:
                yield http
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def pages() -> Iterator[httpx.Client]:
    """An order that was placed, and settled with another one."""
    told = ToldStore()
    placed = replace(A_SPAN, attributes={"shop.order": ORDER})
    told.spans += [
        replace(placed, trace_id=LATER, name="settle", start_ns=BEGAN_NS + MS, links=(SpanLink(OTHERS, "1" * 16, {}),)),
        placed,
        replace(A_SPAN, span_id="1" * 16, parent_id=A_SPAN.span_id, service="inventory", name="hold", status="ERROR",
                attributes={"error.type": "23514"}),
    ]  # fmt: skip
    told.tell(
        A_LINE._replace(message="placed", trace_id=TRACE, span_id=A_SPAN.span_id, order=ORDER, fields={"code": "OK"}),
        A_LINE._replace(message="elsewhere"),
    )
    with served(application(told, Place())) as pages:
        yield pages


def test_a_trace_is_drawn_with_its_lines(pages: httpx.Client) -> None:
    shown = [line.split("  ")[0] + "|" + line for line in pictures(asked(pages, TRACE, None), None, 100)]

    assert [line for line in shown if TRACE in line]
    assert len([line for line in shown if "✗ 23514" in line]) == 1
    assert len([line for line in shown if "· placed code=OK" in line]) == 1
    assert not [line for line in shown if "elsewhere" in line]


def test_all_traces_of_an_order_are_drawn_from_the_oldest_on(pages: httpx.Client) -> None:
    traces = asked(pages, None, ID)

    assert [trace["trace_id"] for trace in traces] == [TRACE, LATER]
    shown = "\n".join(pictures(traces, ID, 100))
    assert shown.index(TRACE) < shown.index(LATER)
    assert f"together with others: shopmesh trace {OTHERS}" in shown


def test_what_is_not_there_is_explained(pages: httpx.Client) -> None:
    with pytest.raises(Failure, match=f"no trace {OTHERS}: it was not sampled"):
        asked(pages, OTHERS, None)
    with pytest.raises(Failure, match=r"`shopmesh order .*` shows the order itself"):
        asked(pages, None, uuid4())


def test_where_spans_go_elsewhere_that_is_said() -> None:
    elsewhere = application(ToldStore(), Place(collector="http://collector:4317"))

    with served(elsewhere) as pages, pytest.raises(Failure, match="lines go to http://collector:4317"):
        asked(pages, TRACE, None)


def test_a_store_that_is_down_is_named_with_a_way_on() -> None:
    with client(f"http://127.0.0.1:{free_port()}") as nobody, pytest.raises(Failure, match="shopmesh logs"):
        asked(nobody, TRACE, None)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (PlainTextResponse("Internal Server Error", 500), "answers: HTTP 500"),
        (PlainTextResponse("another program"), "is no telemetry"),
        (JSONResponse(["another program"]), "is no telemetry"),
    ],
)
def test_what_is_no_telemetry_is_said(answer: Response, said: str) -> None:
    with served(answer) as pages, pytest.raises(Failure, match=said):
        asked(pages, TRACE, None)
