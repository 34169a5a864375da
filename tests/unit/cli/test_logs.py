import json
from pathlib import Path
from typing import Any

import pytest

from services.cli.logs import Line, LogFile, Reader, of_order, rendered


def said(folder: Path, part: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]


def test_json_lines_are_kept_as_they_are_and_others_are_wrapped(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "nats")
    log.write(b'{"message":"one"}\nplain ')
    log.write(b"text\n\n")
    log.close()

    first, second = said(tmp_path, "nats")
    assert first == {"message": "one"}
    assert (second["message"], second["service"]) == ("plain text", "nats")


def test_a_line_that_was_never_ended_is_kept_too(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "order")
    log.write(b"Segmentation fault")
    log.close()

    assert log.last == "Segmentation fault"
    assert said(tmp_path, "order")[0]["message"] == "Segmentation fault"


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "order.jsonl").symlink_to("/dev/full")
    log = LogFile(tmp_path, "order")

    log.write(b"ready\n")
    log.say("the process was ended by SIGKILL; starting it again")
    log.close()

    assert log.last == "ready"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"level":"error","message":"cannot start","error":"no such table"}', "cannot start: no such table"),
        (b'{"msg":"etcd says it in its own way"}', '{"msg":"etcd says it in its own way"}'),
        (b"[1] nats-server: bind: address already in use", "[1] nats-server: bind: address already in use"),
    ],
)
def test_the_last_words_of_a_part_are_those_that_a_person_reads(tmp_path: Path, line: bytes, words: str) -> None:
    log = LogFile(tmp_path, "part")
    log.write(line + b"\n")
    log.close()

    assert log.last == words


def test_a_full_file_makes_room_and_no_line_is_lost(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "order", max_bytes=100)
    for number in range(3):
        log.write(b'{"time":"2026-01-01T00:00:0%d","message":"%s"}\n' % (number, b"x" * 20))
    log.close()

    assert (tmp_path / "order.jsonl.1").exists()
    assert [line["time"][-1] for _, line in Reader(tmp_path).new()] == ["0", "1", "2"]


def test_lines_of_all_parts_come_in_order_of_time(tmp_path: Path) -> None:
    for part, time in (("order", "2026-01-01T00:00:02Z"), ("etcd", "2026-01-01T00:00:01Z")):
        log = LogFile(tmp_path, part)
        log.write(json.dumps({"ts" if part == "etcd" else "time": time}).encode() + b"\n")
        log.close()

    assert [part for part, _ in Reader(tmp_path).new()] == ["etcd", "order"]


def test_an_order_is_followed_through_its_traces() -> None:
    placed: Line = ("order", {"order": "orders/7", "trace_id": "t1"})
    same_trace: Line = ("envoy", {"trace_id": "t1"})
    by_bare_id: Line = ("notification", {"order": "7"})
    stranger: Line = ("order", {"order": "orders/8", "trace_id": "t2"})
    without: Line = ("etcd", {"message": "compacted"})

    everything = [placed, same_trace, by_bare_id, stranger, without]
    for id in ("orders/7", "7"):
        assert of_order(id, everything, set()) == [placed, same_trace, by_bare_id]


def test_a_trace_is_remembered_from_one_batch_of_lines_to_the_next() -> None:
    traces: set[str] = set()
    of_order("7", [("order", {"order": "7", "trace_id": "t1"})], traces)

    assert of_order("7", [("envoy", {"trace_id": "t1"})], traces) == [("envoy", {"trace_id": "t1"})]


def test_a_reader_goes_on_where_it_was_also_when_the_file_made_room(tmp_path: Path) -> None:
    log, reader = LogFile(tmp_path, "order", max_bytes=100), Reader(tmp_path)
    seen = []
    for number in range(5):
        log.write(b'{"message":"%d %s"}\n' % (number, b"x" * 30))
        if number != 1:  # two at once now and then, with a change of files between
            seen += [str(line["message"])[0] for _, line in reader.new()]
    log.close()

    assert seen == ["0", "1", "2", "3", "4"]
    assert reader.new() == []


def test_a_line_reads_as_time_part_level_message_and_facts() -> None:
    line = {"time": "2026-01-01T10:20:30.123Z", "level": "info", "service": "order", "message": "placed", "order": "7"}

    assert rendered("order", line).split() == ["10:20:30.123", "order", "info", "placed", "order=7"]
