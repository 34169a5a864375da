"""Lines as the pinned programs write them, recorded from them, and as nobody should."""

import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from services.cli.log_lines import MAX_LINE_BYTES, Lines

NOW = datetime(2026, 11, 29, 12, 0, 0, 7_000, tzinfo=UTC)
ARRIVED = "2026-11-29T12:00:00.007Z"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ORDER = "6d1e4c0a-2f9b-5b7e-9a54-0f6f8a2f3c11"


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
