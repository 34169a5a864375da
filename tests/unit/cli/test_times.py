from datetime import UTC, datetime, timedelta

import pytest

from services.cli.times import moment, since
from services.failure import Failure

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2h", NOON - timedelta(hours=2)),
        ("1d12h", NOON - timedelta(hours=36)),
        ("0s", NOON),
        ("2026-03-01T11:30:00Z", NOON - timedelta(minutes=30)),
        ("2026-03-01T12:30:00.5+01:00", NOON - timedelta(minutes=29, seconds=59.5)),
    ],
)
def test_a_time_is_rfc_3339_or_a_duration_ago(text: str, time: datetime) -> None:
    assert since(text, NOON) == time


@pytest.mark.parametrize("text", ["", "2", "yesterday", "2026-03-01T11:00:00", "-2h", "2026-03-01T12:00:01Z"])
def test_what_is_no_time_in_the_past_is_refused(text: str) -> None:
    with pytest.raises(Failure):
        since(text, NOON)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2h", NOON - timedelta(hours=2)),
        ("2026-03-01T12:30:00+01:00", NOON - timedelta(minutes=30)),
        ("2026-03-01T11:00:00", NOON - timedelta(hours=1)),
        ("2026-03-02", NOON + timedelta(hours=12)),
    ],
)
def test_who_only_looks_may_name_a_time_to_come_and_no_zone(text: str, time: datetime) -> None:
    assert moment(text, NOON) == time


@pytest.mark.parametrize("text", ["", "2", "yesterday", "-2h", "0001-01-01T00:00:00+05:00", "999999999d"])
def test_what_is_no_time_at_all_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="is no time: write"):
        moment(text, NOON)
