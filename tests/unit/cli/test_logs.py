import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.cli.local.logs import LogFile


def said(folder: Path, part: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]


def test_every_line_has_the_same_form(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "nats")
    log.write(b'{"message":"one"}\nplain ')
    log.write(b"text\n\n")
    log.close()

    assert [(line["message"], line["service"], line["level"]) for line in said(tmp_path, "nats")] == [
        ("one", "nats", "info"),
        ("plain text", "nats", "info"),
    ]


def test_a_line_that_was_never_ended_is_kept_too(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "order")
    log.write(b"Segmentation fault")
    log.close()

    assert log.last == "Segmentation fault"
    assert said(tmp_path, "order")[0]["message"] == "Segmentation fault"


def test_what_a_helper_says_does_not_end_up_in_the_middle_of_a_line(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "postgres")
    log.write(b"the server is in the middle of ")
    log.write_whole(b"psql: a word\nand another")
    log.say("the supervisor speaks")
    log.write(b"a line\n")
    log.close()

    assert [line["message"] for line in said(tmp_path, "postgres")] == [
        "psql: a word",
        "and another",
        "the supervisor speaks",
        "the server is in the middle of a line",
    ]


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
        (b'{"msg":"discovery failed","error":"wal: max entry size"}', "discovery failed: wal: max entry size"),
        (b"nats-server: bind: address already in use", "nats-server: bind: address already in use"),
        (b"one\n  two", "one"),
    ],
)
def test_the_last_words_of_a_part_are_those_that_a_person_reads(tmp_path: Path, line: bytes, words: str) -> None:
    log = LogFile(tmp_path, "part")
    log.write(line + b"\n")
    log.close()

    assert log.last == words


def test_a_full_file_makes_room(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "order", max_bytes=300)
    for number in range(5):
        log.write(b"%d\n" % number)
    log.close()

    assert (tmp_path / "order.jsonl").stat().st_size <= 300
    assert len((tmp_path / "order.jsonl.1").read_text().splitlines()) == 3


@contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    """Nothing in this process may have more of that meanwhile."""
    before, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (before, hard))


def test_a_full_file_that_cannot_make_room_goes_on_until_it_can(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "order", max_bytes=300)
    with limited(resource.RLIMIT_NOFILE, 3):  # no file can be opened
        for number in range(5):
            log.write(b"%d\n" % number)
    log.write(b"5\n6\n")
    log.write(b"7\n")
    log.close()

    assert [json.loads(line)["message"] for line in (tmp_path / "order.jsonl.1").read_text().splitlines()] == [
        *"0123456"
    ]
    assert [line["message"] for line in said(tmp_path, "order")] == ["7"]


def test_a_line_that_was_written_in_part_spoils_no_other(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "order")
    log.write(b"one\n")
    with limited(resource.RLIMIT_FSIZE, (tmp_path / "order.jsonl").stat().st_size + 20):
        log.write(b"two\n")
        log.write(b"three\n")
    log.write(b"four\n")
    log.close()

    whole, torn, after = (tmp_path / "order.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["message"] for line in (whole, after)] == ["one", "four"]
    assert len(torn) == 20
