"""Lines as the pinned programs write them, recorded from them, and as nobody should."""

import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cli.local.log_lines import MAX_LINE_BYTES, Lines
from services.log_files import LEVELS, said, told

NOW = datetime(2026, 11, 29, 12, 0, 0, 7_000, tzinfo=UTC)
ARRIVED = "2026-11-29T12:00:00.007Z"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ORDER = "6d1e4c0a-2f9b-5b7e-9a54-0f6f8a2f3c11"


JSON_LINES = st.dictionaries(
    st.sampled_from(("time", "ts", "level", "severity", "message", "msg", "service", "trace_id", "order", "exception",
                     "grpc_status", "code", "causedBy", "frames")) | st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
        | st.sampled_from((TRACE, ORDER, "call", "info", "2026-11-29T07:00:00Z", "0001-01-01T00:00:00+10:00")),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=6,
).map(lambda line: json.dumps(line).encode() + b"\n")  # fmt: skip


def formed(part: str, *chunks: str | bytes) -> list[dict[str, Any]]:
    """What becomes of chunks that a part writes and of its end."""
    lines = Lines(part, lambda: NOW)
    found = [line for chunk in chunks for line in lines.add(chunk if isinstance(chunk, bytes) else chunk.encode())]
    return [json.loads(line) for line in found + lines.end()]


def test_nats() -> None:
    started, failed = formed(
        "nats",
        "[26327] 2026/11/29 07:31:25.459077 [INF] Starting nats-server\n"
        "[26337] 2026/11/29 07:31:25.923360 [FTL] Error listening on port: 127.0.0.1:24222, "
        '"listen tcp 127.0.0.1:24222: bind: address already in use"\n',
    )
    (refused,) = formed("nats", 'nats-server: bad.conf:2:13: unknown field "store_dirr"\n')

    assert started == {
        "time": "2026-11-29T07:31:25.459Z",
        "level": "info",
        "service": "nats",
        "instance": "nats",
        "message": "Starting nats-server",
        "pid": 26327,
    }
    assert (failed["level"], failed["message"][:23]) == ("error", "Error listening on port")
    assert (refused["level"], refused["time"]) == ("info", ARRIVED)


def test_etcd() -> None:
    warned, failed, inner = formed(
        "etcd",
        '{"level":"warn","ts":"2026-11-29T07:31:26.712Z","caller":"auth/store.go:1220","msg":"simple token is not '
        'cryptographically signed"}\n'
        '{"level":"fatal","ts":"2026-11-29T08:31:29.263+0100","caller":"etcdmain/etcd.go:203","msg":"discovery failed",'
        '"error":"wal: max entry size limit exceeded","stacktrace":"go.etcd.io/etcd\\n\\t/tmp/etcd.go:203"}\n'
        "WARNING: 2026/11/29 07:31:28 [core] grpc: addrConn.createTransport failed to connect\n",
    )

    assert warned == {
        "time": "2026-11-29T07:31:26.712Z",
        "level": "warning",
        "service": "etcd",
        "instance": "etcd",
        "message": "simple token is not cryptographically signed",
        "caller": "auth/store.go:1220",
    }
    assert (failed["time"], failed["level"]) == ("2026-11-29T07:31:29.263Z", "error")
    assert failed["error"] == "wal: max entry size limit exceeded"
    assert (inner["time"], inner["level"], inner["message"][:6]) == ("2026-11-29T07:31:28.000Z", "warning", "[core]")


POSTGRES = b"""\
2026-11-29 07:50:17.101 UTC [31798] 00000 LOG:  database system is ready to accept connections
2026-11-29 07:51:52.656 UTC [1807] 42601 order ERROR:  syntax error at or near "selec" at character 1
2026-11-29 07:51:52.656 UTC [1807] 42601 order STATEMENT:  selec 1
2026-11-29 07:51:52.677 UTC [1807] 01000 order WARNING:  two
\tlines
2026-11-29 07:51:52.677 UTC [1807] 01000 order DETAIL:  a detail
2026-11-29 07:51:52.677 UTC [1807] 01000 order HINT:  a hint
2026-11-29 07:51:52.677 UTC [1807] 01000 order CONTEXT:  PL/pgSQL function inline_code_block line 1 at RAISE
2026-11-29 07:51:52.678 UTC [1807] 42P01 order ERROR:  relation "nowhere" does not exist at character 23
2026-11-29 07:51:52.678 UTC [1807] 42P01 order STATEMENT:  select
\t  nothing
\tfrom nowhere
2026-11-29 07:51:52.680 UTC [1807] 57014 order ERROR:  canceling statement due to statement timeout
2026-11-29 07:51:52.699 UTC [1809] 3D000 nodb FATAL:  database "nodb" does not exist
"""


def test_postgres() -> None:
    ready, wrong, warned, missing, cancelled, failed = formed("postgres", POSTGRES)

    assert ready == {
        "time": "2026-11-29T07:50:17.101Z",
        "level": "info",
        "service": "postgres",
        "instance": "postgres",
        "message": "database system is ready to accept connections",
        "pid": 31798,
    }
    assert (wrong["level"], wrong["sqlstate"], wrong["database"], wrong["statement"]) == (
        "warning", "42601", "order", "selec 1",
    )  # fmt: skip
    assert (warned["level"], warned["message"]) == ("warning", "two\nlines")
    assert (warned["detail"], warned["hint"], warned["context"][:8]) == ("a detail", "a hint", "PL/pgSQL")
    assert missing["statement"] == "select\n  nothing\nfrom nowhere"
    assert (cancelled["level"], failed["level"]) == ("warning", "error"), "who cancels a statement knows why"


@pytest.mark.parametrize(
    "head",
    ["23514 order ERROR:  new row for relation", "23505 order ERROR:  duplicate key", "22P02 order ERROR:  invalid"],
)
def test_values_of_rows_stay_in_the_database(head: str) -> None:
    start = "2026-11-29 07:51:52.674 UTC [1807] "
    (line,) = formed(
        "postgres",
        f"{start}{head}\n{start}{head[:11]} DETAIL:  Failing row contains (-1, ann@example.com,\n\tsecret).\n"
        f"{start}{head[:11]} CONTEXT:  JSON data, line 1: secret\n{start}{head[:11]} STATEMENT:  insert into t\n",
    )

    assert "secret" not in json.dumps(line)
    assert "ann@example.com" not in json.dumps(line)
    assert line["statement"] == "insert into t"


def test_two_sessions_that_write_at_once_are_told_apart() -> None:
    start = "2026-11-29 07:51:52.674 UTC "
    one, other, detail = formed(
        "postgres",
        f"{start}[1] 42601 order ERROR:  one\n"
        f"{start}[2] 42601 order ERROR:  other\n"
        f"{start}[1] 42601 order DETAIL:  of one\n",
    )

    assert (one["message"], other["message"]) == ("one", "other")
    assert (detail["pid"], detail["detail"]) == (1, "of one")


def test_keycloak() -> None:
    refused, stopped, threw, early = formed(
        "keycloak",
        '{"timestamp":"2026-11-29T07:51:56.505221273Z","sequence":2990,"loggerClassName":"org.jboss.logging.Logger",'
        '"loggerName":"org.keycloak.events","level":"WARN","message":"type=\\"LOGIN_ERROR\\", realmName=\\"shop\\"",'
        '"threadName":"executor-thread-1","threadId":21,"mdc":{},"ndc":"","hostName":"vm","processName":"java",'
        '"processId":31671,"service.name":"keycloak"}\n'
        '{"timestamp":"2026-11-29T08:52:01.118+01:00","level":"INFO","message":"Keycloak stopped in 1.430s"}\n'
        '{"timestamp":"2026-11-29T07:52:01.118Z","level":"ERROR","message":"Failed","exception":{"refId":1,'
        '"exceptionType":"java.lang.IllegalStateException","message":"no","frames":[{"class":"a.B","method":"c","line":7}],'
        '"causedBy":{"exception":{"refId":2,"exceptionType":"java.io.IOException","frames":[]}}}}\n'
        "2026-11-29 07:52:02,001 ERROR [org.keycloak.quarkus] (main) ERROR: Failed to start\n"
        "java.lang.RuntimeException: no\n\tat a.B.c(B.java:7)\nCaused by: java.io.IOException\n\t... 3 more\n",
    )

    assert refused == {
        "time": "2026-11-29T07:51:56.505Z",
        "level": "warning",
        "service": "keycloak",
        "instance": "keycloak",
        "message": 'type="LOGIN_ERROR", realmName="shop"',
        "logger": "org.keycloak.events",
        "thread": "executor-thread-1",
    }
    assert stopped["time"] == "2026-11-29T07:52:01.118Z"
    assert threw["exception"] == ("java.lang.IllegalStateException: no\n\tat a.B.c(7)\nCaused by: java.io.IOException")
    assert (early["time"], early["level"], early["message"]) == (
        "2026-11-29T07:52:02.001Z", "error", "ERROR: Failed to start",
    )  # fmt: skip
    assert early["exception"].count("\n") == 3


def a_call(**facts: object) -> str:
    said = {
        "attempts": 1, "authority": "127.0.0.1:21400", "code": 200, "detail": "via_upstream", "duration_ms": 4,
        "flags": "-", "instance": "envoy", "level": "info", "listener": "edge", "message": "call", "method": "POST",
        "path": "/shop.order.v1.OrderService/PlaceOrder", "service": "envoy", "time": "2026-11-29T07:51:52.727Z",
        "trace_id": TRACE, "upstream": "127.0.0.1:21430", "user_agent": "curl/7.88.1",
    }  # fmt: skip
    return json.dumps(said | facts) + "\n"


def test_envoy() -> None:
    warned, called = formed(
        "envoy",
        '{"time":"2026-11-29T07:51:59.692Z","level":"critical","service":"envoy","message":"caught ENVOY_SIGSEGV"}\n',
        a_call(),
    )

    assert (warned["level"], warned["instance"]) == ("error", "envoy")
    assert (called["time"], called["trace_id"], called["duration_ms"]) == ("2026-11-29T07:51:52.727Z", TRACE, 4)
    assert called["path"] == "/shop.order.v1.OrderService/PlaceOrder"


def test_a_line_of_ours_is_kept_byte_for_byte() -> None:
    line = orjson.dumps(
        {
            "time": datetime(2026, 11, 29, 7, 0, 0, 123456, UTC),
            "level": "info",
            "service": "order",
            "instance": "order-2",
            "message": "call",
            "trace_id": TRACE,
            "span_id": SPAN,
            "order": f"orders/{ORDER}",
            "code": "OK",
        },
        option=orjson.OPT_UTC_Z,
    )

    assert Lines("order-2").add(line + b"\n") == [line]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"level": 5}, {"level": "info", "said_level": 5}),
        ({"level": "loud"}, {"level": "info", "said_level": "loud"}),
        ({"severity": "WARN"}, {"level": "warning"}),
        ({"time": "yesterday"}, {"time": ARRIVED, "said_time": "yesterday"}),
        ({"time": True}, {"time": ARRIVED, "said_time": True}),
        ({"time": None}, {"time": ARRIVED}),
        ({"ts": 1_795_939_200.5}, {"time": "2026-11-29T08:00:00.500Z"}),
        ({"timestamp": "2026-11-29T08:00:00"}, {"time": "2026-11-29T08:00:00.000Z"}),
        ({"message": {"a": 1}}, {"message": "", "said_message": {"a": 1}}),
        ({"trace_id": "nothex"}, {"said_trace_id": "nothex"}),
        ({"trace_id": TRACE.upper()}, {"trace_id": TRACE}),
        ({"trace_id": "0" * 32, "span_id": ""}, {"said_trace_id": "0" * 32}),
        ({"trace_id": ["x"], "span_id": 7}, {"said_trace_id": ["x"], "said_span_id": 7}),
        ({"order": ORDER}, {"order": f"orders/{ORDER}"}),
        ({"order": "desc"}, {"said_order": "desc"}),
        ({"service": "bank", "instance": 3}, {"said_service": "bank", "said_instance": 3}),
        ({"fields": {"deep": [1]}, "n": 1e300}, {"fields": {"deep": [1]}, "n": 1e300}),
    ],
)
def test_json_with_our_names_and_other_values_keeps_both(said: dict[str, Any], kept: dict[str, Any]) -> None:
    (line,) = formed("order", json.dumps(said) + "\n")

    base = {"time": ARRIVED, "level": "info", "service": "order", "instance": "order", "message": ""}
    assert line == base | kept


@pytest.mark.parametrize(
    "text", ["[1, 2]", '"a"', "17", "null", "{", '{"a": NaN}', '{"a": 1} and more', '{"time":"2026', "[" * 5000]
)
def test_what_is_no_json_object_is_text(text: str) -> None:
    (line,) = formed("order", text + "\n")

    assert line == {
        "time": ARRIVED, "level": "info", "service": "order", "instance": "order", "message": text,
    }  # fmt: skip


@pytest.mark.parametrize("part", ["order", "envoy", "keycloak", "postgres"])
@given(chunks=st.lists(st.binary(max_size=60) | JSON_LINES, max_size=6))
@settings(max_examples=15, deadline=None)
def test_nothing_that_a_part_writes_stops_its_log(part: str, chunks: list[bytes]) -> None:
    lines = Lines(part, lambda: NOW)
    for line in [*(line for chunk in chunks for line in lines.add(chunk)), *lines.end()]:
        read = said(line, part, 0)
        assert (read.service, read.instance, read.level in LEVELS) == (part, part, True)
        orjson.dumps(told(read))


@pytest.mark.parametrize("deep", ["[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300])
def test_what_is_too_deep_to_be_written_again_is_text(deep: str) -> None:
    (line,) = formed("order", f'{{"message":"x","deep":{deep}}}\n')

    assert line["message"].startswith('{"message":"x","deep":')


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_no_calendar_has_in_utc_is_none(time: str) -> None:
    (line,) = formed("order", json.dumps({"time": time}) + "\n")

    assert (line["time"], line["said_time"]) == (ARRIVED, time)


def test_bytes_that_are_no_text_are_told_apart_from_it() -> None:
    (line,) = formed("envoy", b"\x00\xff\xfe core dumped \x1b[31m\n")

    assert line["message"] == "\x00\ufffd\ufffd core dumped \x1b[31m"


def test_half_lines_become_whole_ones() -> None:
    first, second = formed("order", "one ", "line", "\ntwo", "")

    assert (first["message"], second["message"]) == ("one line", "two")


def test_a_line_too_long_is_cut_and_says_so_and_the_next_one_is_whole() -> None:
    chunks = [b"x" * 100_000] * 10 + [b"\nnext\n"]
    cut, after = formed("order", *chunks)
    (at_once,) = formed("order", b'{"message":"' + b"x" * 1_000_000 + b'"}\n')

    assert cut["message"] == "x" * MAX_LINE_BYTES
    assert cut["cut_bytes_kept"] == MAX_LINE_BYTES
    assert after["message"] == "next"
    assert len(at_once["message"]) == MAX_LINE_BYTES


def test_a_line_without_an_end_takes_no_more_room_than_the_longest() -> None:
    lines = Lines("order", lambda: NOW)
    for _ in range(20_000):
        lines.add(b"x" * 100)

    assert len(lines.end()[0]) < MAX_LINE_BYTES + 300


def test_a_traceback_is_one_line_with_its_end_for_a_message() -> None:
    before, failed, after = formed(
        "order",
        "starting\n"
        "Traceback (most recent call last):\n"
        '  File "/usr/lib/python3.13/runpy.py", line 198, in _run_module_as_main\n'
        "    return _run_code(code, main_globals, None)\n"
        "KeyError: 'a'\n"
        "\n"
        "During handling of the above exception, another exception occurred:\n"
        "\n"
        "Traceback (most recent call last):\n"
        '  File "<string>", line 1, in <module>\n'
        "ModuleNotFoundError: No module named 'services.odrer'\n"
        "ended\n",
    )

    assert (before["message"], after["message"]) == ("starting", "ended")
    assert failed["level"] == "error"
    assert failed["message"] == "ModuleNotFoundError: No module named 'services.odrer'"
    assert failed["exception"].count("Traceback") == 2


def test_each_instance_and_each_envoy_goes_by_its_own_name() -> None:
    names = [
        formed(part, "x\n")[0] for part in ("order-2", "product@2.0", "product-3@2.0-test", "envoy-2", "demo data")
    ]

    assert [(line["service"], line["instance"]) for line in names] == [
        ("order", "order-2"),
        ("product", "product@2.0"),
        ("product", "product-3@2.0-test"),
        ("envoy", "envoy-2"),
        ("demo data", "demo data"),
    ]
