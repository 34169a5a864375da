"""Pages of log lines over the real store, back to the first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.log_files import Line
from services.telemetry import reading
from services.telemetry.intake import Intake
from services.telemetry.model import LineQuery
from services.telemetry.reading import lines
from services.telemetry.segments import Bounds, Segments
from services.telemetry.store import Store
from tests.support.told_store import A_LINE, MS


@contextmanager
def kept(folder: Path, said: list[Line]) -> Iterator[Store]:
    segments = Segments(folder, Bounds())
    intake = Intake(segments)
    intake.put_lines(said)
    intake.close()
    intake.run()
    yield Store(segments, intake)
    segments.close()


@pytest.mark.parametrize(
    "query", [LineQuery(limit=4), LineQuery(service="order", limit=4), LineQuery(text="line", limit=4)]
)
def test_no_line_is_lost_or_shown_twice_where_many_share_a_moment(tmp_path: Path, query: LineQuery) -> None:
    said = [A_LINE._replace(time_ns=A_LINE.time_ns + at // 10 * MS, message=f"line {at}") for at in range(30)]
    told, before = list[str](), 0
    with kept(tmp_path, said) as store:
        while page := lines(store, query, before):
            told[:0] = [line.message for line in page]
            before = page[0].id
            assert len(told) <= len(said)

    assert told == [line.message for line in said]


def test_there_is_nothing_older_than_a_line_that_is_no_longer_there(tmp_path: Path) -> None:
    with kept(tmp_path, [A_LINE]) as store:
        [line] = lines(store, LineQuery(), 0)
        assert lines(store, LineQuery(), line.id) == []
        assert lines(store, LineQuery(), line.id + 7) == []
        assert lines(store, LineQuery(), 1) == []


def test_a_flood_of_one_moment_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_BESIDE", 8)
    first = A_LINE._replace(time_ns=A_LINE.time_ns - 1, message="before the flood")
    with kept(tmp_path, [first, *[A_LINE._replace(message=f"line {at}") for at in range(50)]]) as store:
        page = lines(store, LineQuery(limit=4), 0)
        assert [line.message for line in page] == [f"line {at}" for at in range(46, 50)]
        for _ in range(20):
            page = lines(store, LineQuery(limit=4), page[0].id)
            if page[0].message == first.message:
                return
    pytest.fail("the end is not reached")


def test_lines_too_large_for_one_answer_are_had_one_after_the_other(tmp_path: Path) -> None:
    huge = [A_LINE._replace(time_ns=A_LINE.time_ns + at // 3, message=f"{at}" + "x" * 3_000_000) for at in range(9)]
    told, before = list[str](), 0
    with kept(tmp_path, huge) as store:
        while page := lines(store, LineQuery(limit=9), before):
            told[:0] = [line.message[0] for line in page]
            before = page[0].id
            assert len(told) <= len(huge)
    assert told == [f"{at}" for at in range(9)]
