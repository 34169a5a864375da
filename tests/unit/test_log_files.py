"""Reading log files that are written, renamed, replaced and taken away meanwhile."""

import json
from pathlib import Path

import pytest

from services.cli.local.logs import LogFile
from services.log_files import READ_BYTES, Place, batches, instant, nanoseconds, parts, said, shown, told

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ORDER = "orders/6d1e4c0a-2f9b-5b7e-9a54-0f6f8a2f3c11"


class Reader:
    """Goes on where it was each time."""

    def __init__(self, folder: Path, place: Place | None = None) -> None:
        self.folder, self.place = folder, place
        self.gaps = 0

    def new(self) -> list[str]:
        found = []
        for batch in batches(self.folder, "order", self.place):
            self.place = batch.place
            self.gaps += batch.after_gap
            found += [said(line, "order", 0).message for line in batch.lines]
        return found


def test_a_reader_gets_every_line_once_however_often_the_file_is_renamed(tmp_path: Path) -> None:
    log, reader, seen = LogFile(tmp_path, "order", max_bytes=300), Reader(tmp_path), list[str]()
    for number in range(20):
        log.write(b"%d\n" % number)
        if number % 4 != 1:  # two at once now and then, with a change of files between
            seen += Reader(tmp_path, reader.place).new()  # as a reader that starts again
            reader.new()
    log.close()

    assert seen == [str(number) for number in range(20)]
    assert reader.new() == []
    assert reader.gaps == 0


def test_one_who_was_away_for_long_gets_all_that_is_kept(tmp_path: Path) -> None:
    log, reader = LogFile(tmp_path, "order", max_bytes=300), Reader(tmp_path)
    log.write(b"first\n")
    assert reader.new() == ["first"]
    for number in range(21):
        log.write(b"%d\n" % number)
    log.close()

    assert reader.new() == [str(number) for number in range(17, 21)]
    assert reader.gaps == 1, "and is told that something is missing"


def test_a_file_with_a_used_inode_is_another_file(tmp_path: Path) -> None:
    path, reader = tmp_path / "order.jsonl", Reader(tmp_path)
    path.write_text('{"message": "one"}\n')
    assert reader.new() == ["one"]
    path.write_text('{"message": "two"}\n{"message": "three"}\n')  # the same inode, written anew

    assert reader.new() == ["two", "three"]


def test_a_line_without_an_end_waits_for_it(tmp_path: Path) -> None:
    path, reader = tmp_path / "order.jsonl", Reader(tmp_path)
    for text, expected in (("", []), ("on", []), ("e\ntw", ["one"]), ("o", []), ("\n", ["two"])):
        with path.open("a") as file:
            file.write(text)
        assert reader.new() == expected


def test_lines_longer_than_what_is_read_at_once_are_whole(tmp_path: Path) -> None:
    long = "x" * (READ_BYTES + 1000)
    (tmp_path / "order.jsonl").write_text(f"a\n{long}\nb\n")

    assert [len(message) for message in Reader(tmp_path).new()] == [1, len(long), 1]


def test_nothing_is_there_where_nothing_was_logged(tmp_path: Path) -> None:
    assert Reader(tmp_path / "missing").new() == []
    assert parts(tmp_path / "missing") == []


def test_a_line_is_told_as_it_was_said() -> None:
    line = said(
        f'{{"time":"2026-11-29T07:00:00.123456Z","level":"info","service":"order","instance":"order-2",'
        f'"message":"call","trace_id":"{TRACE}","span_id":"{SPAN}","order":"{ORDER}","code":"OK"}}'.encode(),
        "order-2", 0,
    )  # fmt: skip

    assert line.time_ns == 1795935600123456000
    assert told(line) == {
        "time": "2026-11-29T07:00:00.123456Z", "level": "info", "service": "order", "instance": "order-2",
        "message": "call", "trace_id": TRACE, "span_id": SPAN, "order": ORDER, "code": "OK",
    }  # fmt: skip


@pytest.mark.parametrize(
    "raw", [b"text", b"17", b"[]", b'{"time": 5, "level": 5, "service": [], "message": null}', b"\xff\x00"]
)
def test_whatever_stands_in_a_file_is_a_line(raw: bytes) -> None:
    line = said(raw, "order-2", 1_000_000_000)

    assert (line.time_ns, line.level, line.service, line.instance) == (1_000_000_000, "info", "order", "order-2")


@pytest.mark.parametrize("value", ["nothex" * 6, "A" * 32, 7, None, ["a"]])
def test_ids_that_are_none_are_left_out(value: object) -> None:
    line = said(json.dumps({"trace_id": value, "span_id": value, "order": value}).encode(), "order", 0)

    assert (line.trace_id, line.span_id, line.order) == ("", "", "")


def test_times_are_those_that_were_meant() -> None:
    assert nanoseconds("2026-11-29T08:00:00.5+01:00") == nanoseconds("2026-11-29T07:00:00.500000000Z")
    assert shown(1795935600123000000) == "2026-11-29T07:00:00.123Z"
    nothing: list[object] = ["", "yesterday", 5, -1.0, float("nan"), float("inf"), True, None, [], "9999999-01-01"]
    for none in nothing:
        assert instant(none) is None
