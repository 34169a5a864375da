"""The mapping is that of OpenTelemetry's specification, "OpenTelemetry to Zipkin Transformation"."""

from dataclasses import replace

import pytest

from services.telemetry import zipkin
from services.telemetry.asking import BadQuestion
from services.telemetry.model import SpanEvent, SpanLink, TraceQuery
from tests.support.told_store import A_SPAN, BEGAN_NS, MS, ORDER

NOW_NS = BEGAN_NS


def test_a_span_has_its_times_in_microseconds_and_its_attributes_as_tags() -> None:
    shown = zipkin.span(replace(A_SPAN, attributes={"rpc.method": "PlaceOrder", "retries": 2, "ok": True, "no": None}))
    assert shown == {
        "traceId": A_SPAN.trace_id,
        "id": A_SPAN.span_id,
        "kind": "SERVER",
        "name": "PlaceOrder",
        "timestamp": BEGAN_NS // 1_000,
        "duration": 12_000,
        "localEndpoint": {"serviceName": "order"},
        "tags": {"rpc.method": "PlaceOrder", "retries": "2", "ok": "true", "service.instance.id": "order-1"},
    }


def test_an_internal_span_has_no_kind_and_one_without_duration_takes_a_microsecond() -> None:
    shown = zipkin.span(replace(A_SPAN, kind="INTERNAL", end_ns=BEGAN_NS))
    assert "kind" not in shown
    assert shown["duration"] == 1


def test_an_error_has_the_tag_that_lens_marks() -> None:
    failed = replace(A_SPAN, status="ERROR", status_message="deadlock detected")
    assert zipkin.span(failed)["tags"]["error"] == "deadlock detected"
    assert zipkin.span(replace(failed, status_message=""))["tags"]["error"] == "true"
    assert "error" not in zipkin.span(A_SPAN)["tags"]


def test_events_are_annotations_and_linked_traces_are_tags() -> None:
    shown = zipkin.span(
        replace(
            A_SPAN,
            events=(SpanEvent("retry", BEGAN_NS + MS, {}), SpanEvent("held", BEGAN_NS, {"pieces": 2})),
            links=(SpanLink("ab" * 16, "cd" * 8, {}),),
        )
    )
    assert shown["annotations"] == [
        {"timestamp": BEGAN_NS // 1_000 + 1_000, "value": "retry"},
        {"timestamp": BEGAN_NS // 1_000, "value": 'held: {"pieces": 2}'},
    ]
    assert shown["tags"]["link.0.trace"] == "ab" * 16


def test_a_call_names_whom_it_calls() -> None:
    call = replace(
        A_SPAN,
        kind="CLIENT",
        parent_id="00f067aa0ba902b7",
        attributes={"db.system.name": "postgresql", "server.address": "127.0.0.1"},
    )
    assert zipkin.span(call)["remoteEndpoint"] == {"serviceName": "postgresql"}
    assert zipkin.span(call)["parentId"] == "00f067aa0ba902b7"


def test_a_trace_without_end_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipkin, "MOST_SPANS", 3)
    shown = zipkin.spans([A_SPAN] * 5)
    assert len(shown) == 3
    assert shown[0]["tags"]["left.out"] == "no more than 3 spans of a trace are shown"


def test_a_megabyte_in_a_tag_is_cut() -> None:
    shown = zipkin.span(replace(A_SPAN, attributes={"query": "x" * 1_000_000}))
    assert len(shown["tags"]["query"]) < 5_000


def test_a_search_of_lens_is_a_question_to_the_store() -> None:
    asked = {
        "serviceName": "order",
        "spanName": "PlaceOrder",
        "annotationQuery": "error and rpc.method=PlaceOrder",
        "minDuration": "1500",
        "maxDuration": "9000",
        "endTs": "1790000000000",
        "lookback": "900000",
        "limit": "20",
    }
    assert zipkin.question(asked, NOW_NS) == TraceQuery(
        service="order",
        span_name="PlaceOrder",
        attributes={"error": "", "rpc.method": "PlaceOrder"},
        min_duration_ns=1_500_000,
        max_duration_ns=9_000_000,
        since_ns=1_789_999_100_000 * MS,
        until_ns=1_790_000_000_000 * MS + 999_000,
        limit=20,
    )


def test_nothing_given_asks_for_the_newest_ten() -> None:
    query = zipkin.question({}, NOW_NS)
    assert (query.since_ns, query.limit, query.until_ns) == (0, 10, NOW_NS + 999_000)


@pytest.mark.parametrize("key", ["order", "shop.order"])
@pytest.mark.parametrize("name", [ORDER, ORDER.removeprefix("orders/"), f"{ORDER} and "])
def test_an_order_is_found_by_its_name(key: str, name: str) -> None:
    assert zipkin.question({"annotationQuery": f"{key}={name}"}, NOW_NS).order == ORDER


def test_and_is_a_word_of_its_own() -> None:
    query = zipkin.question({"annotationQuery": "place=sand and land and brand=x and "}, NOW_NS)
    assert query.attributes == {"place": "sand", "land": "", "brand": "x"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"limit": "many"}, "limit is a number"),
        ({"minDuration": "-1"}, "minDuration is a number"),
        ({"endTs": "9" * 30}, "endTs is a number"),
        ({"endTs": "9223372036854775807", "lookback": "1"}, "endTs is a number"),
        ({"annotationQuery": "=x"}, "names no tag"),
        ({"annotationQuery": "order=mine"}, "is no order"),
        ({"serviceName": "x" * 1_000_000}, "at most 500"),
    ],
)
def test_what_cannot_be_asked_is_said(asked: dict[str, str], said: str) -> None:
    with pytest.raises(BadQuestion, match=said):
        zipkin.question(asked, NOW_NS)
