"""What parts log is in the store, once, whatever happens to the files and to the process that reads them."""

import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.cli.local.logs import LogFile
from services.cli.telemetry.log_search import Files, Store, Wanted
from services.log_files import Batch, Line, Place, batches
from services.telemetry import tail
from services.telemetry.tail import Tail
from tests.support.telemetry import Telemetry
from tests.support.waiting import eventually

TRACES = ["1" * 32, "2" * 32, "3" * 32]
ORDERS = [f"orders/6d1e4c0a-2f9b-5b7e-9a54-0f6f8a2f3c1{at}" for at in range(2)]


class Kept:
    """A store that has no room now and then."""

    def __init__(self) -> None:
        self.has_room = True
        self.lines: list[Line] = []
        self.marks: dict[str, tuple[int, int]] = {}
        self.full = False

    def put_lines(self, lines: Sequence[Line], mark: tuple[str, int, int]) -> bool:
        assert self.has_room
        if self.full:
            return False
        self.lines += lines
        part, file, offset = mark
        self.marks[part] = file, offset
        return True

    @property
    def said(self) -> list[str]:
        return [line.message for line in self.lines]


def test_what_finds_no_room_waits_in_the_files(tmp_path: Path) -> None:
    log, kept = LogFile(tmp_path, "order", max_bytes=1000), Kept()
    tail = Tail(tmp_path, {}, kept)
    for number in range(12):
        kept.has_room, kept.full = number % 3 != 2, number % 3 == 1
        log.write(b"%d\n" % number)
        tail.look()
    kept.has_room, kept.full = True, False
    tail.look()
    tail.look()
    log.close()

    assert kept.said == [str(number) for number in range(12)]
    assert {part: Place(*mark) for part, mark in kept.marks.items()} == tail._places


def test_a_part_that_is_new_is_followed_from_its_first_line(tmp_path: Path) -> None:
    kept = Kept()
    tail = Tail(tmp_path / "logs", {}, kept)
    tail.look()
    for part in ("order", "order-2"):
        with closing(LogFile(tmp_path / "logs", part)) as log:
            log.say("begun")
        tail.look()
        tail.look()

    assert [(line.instance, line.message) for line in kept.lines] == [("order", "begun"), ("order-2", "begun")]


class Watched:
    """A telemetry process, and the command that asks it."""

    def __init__(self, folder: Path) -> None:
        self.logs = folder / "logs"
        self.process = Telemetry(folder, self.logs)
        self.store = Store(f"127.0.0.1:{self.process.port}")

    def lines(self, **wanted: Any) -> list[Line]:
        return [line._replace(id=0) for line in self.store.newest(Wanted(**wanted))]  # a file gives no ids


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    watched = Watched(tmp_path_factory.mktemp("telemetry"))
    watched.process.start()
    yield watched
    watched.store.close()
    watched.process.stop()


async def test_a_process_that_is_killed_doubles_and_loses_no_line(watched: Watched) -> None:
    files = {part: LogFile(watched.logs, part, max_bytes=30_000) for part in ("product", "inventory")}
    said = 0

    def say(count: int) -> None:
        nonlocal said
        for _ in range(count):
            said += 1
            for log in files.values():
                log.write(b'{"message":"%d","padding":"%s"}\n' % (said, b"x" * 50))

    async def taken(at_least: int) -> bool:
        newest = watched.lines(service="product", limit=1)
        return bool(newest) and int(newest[0].message) >= at_least

    say(100)
    await eventually(partial(taken, 1), "it reads")
    say(100)  # a file holds 150 of them
    watched.process.kill()
    say(20)
    watched.process.start()
    await eventually(partial(taken, said), "it has read all")
    for part, log in files.items():
        log.close()
        found = watched.lines(service=part, limit=10_000)
        assert sorted(int(line.message) for line in found) == list(range(1, said + 1)), part


SINCE_NS = 1893456000000000000
ASKED: list[dict[str, Any]] = [
    {}, {"limit": 2}, {"service": "order"}, {"service": "envoy", "level": "warning"}, {"level": "error"},
    {"trace": TRACES[0]}, {"order": ORDERS[0]}, {"order": ORDERS[0], "service": "envoy"}, {"order": ORDERS[1]},
    {"text": "OUT_OF_ST"}, {"text": "stock out"}, {"text": "STOCK_OUT"}, {"text": "zurich"}, {"text": "dee"},
    {"text": "eep"}, {"text": "**"}, {"until_ns": SINCE_NS + 3_000_000_000}, {"service": "bank"},
]  # fmt: skip


async def test_the_store_and_the_files_give_the_same_lines_for_the_same_question(watched: Watched) -> None:
    said: list[tuple[str, dict[str, Any]]] = [
        ("envoy", {"message": "call", "trace_id": TRACES[0], "grpc_status": "Unavailable"}),
        ("order", {"message": "call", "trace_id": TRACES[0], "order": ORDERS[0], "code": "OK", "ms": 1.5}),
        ("envoy", {"message": "call", "trace_id": TRACES[1], "path": "/v1/Zürich"}),
        ("order", {"message": "rejected", "level": "warning", "order": ORDERS[1], "reason": "OUT_OF_STOCK"}),
        ("order", {"message": "broken", "level": "error", "errors": [{"why": "deep inside"}]}),
    ]
    for second, (part, line) in enumerate(said, 1):
        with closing(LogFile(watched.logs, part)) as log:
            log.write(json.dumps({"time": f"2030-01-01T00:00:0{second}.000Z", **line}).encode() + b"\n")

    async def has_all() -> bool:
        return len(watched.lines(since_ns=SINCE_NS)) == len(said)

    await eventually(has_all, "the store has them")
    for more in ASKED:
        wanted = {"since_ns": SINCE_NS, **more}
        assert watched.lines(**wanted) == Files(watched.logs).newest(Wanted(**wanted)), more
    assert any(watched.lines(**more) for more in ASKED)


async def test_who_follows_is_told_what_comes_and_nothing_twice(watched: Watched) -> None:
    asked = Wanted(service="mailbox", limit=1)

    async def has(message: str) -> bool:
        return any(line.message == message for line in watched.lines(service="mailbox"))

    async def write(year: int, message: str) -> None:
        with closing(LogFile(watched.logs, "mailbox")) as log:
            log.write(json.dumps({"time": f"{year}-01-01T00:00:00Z", "message": message}).encode() + b"\n")
        await eventually(partial(has, message), "it is taken up")

    await write(2031, "newest")
    await write(2020, "older, and came later")
    with closing(Store(f"127.0.0.1:{watched.process.port}")) as follower:
        assert [line.message for line in follower.newest(asked)] == ["newest"]
        assert follower.later(asked) == []
        await write(2020, "and one more")
        assert [line.message for line in follower.later(asked)] == ["and one more"]
        assert follower.later(asked) == []


def test_a_file_that_cannot_be_read_costs_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sick(folder: Path, part: str, place: Place | None) -> Iterator[Batch]:
        if part == "order":
            raise OSError(errno.EIO, "Input/output error")
        return batches(folder, part, place)

    monkeypatch.setattr(tail, "batches", sick)
    kept = Kept()
    reads = Tail(tmp_path, {}, kept)
    for part in ("order", "product"):
        with closing(LogFile(tmp_path, part)) as log:
            log.write(part.encode() + b"\n")
    reads.look()
    reads.look()
    assert kept.said == ["product"]
    assert capsys.readouterr().out.count("cannot be read") == 1
    monkeypatch.undo()
    reads.look()
    assert kept.said == ["product", "order"]
