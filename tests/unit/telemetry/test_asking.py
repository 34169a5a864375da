import time

import pytest

from services.telemetry import asking
from services.telemetry.asking import BadQuestion
from services.telemetry.model import LineQuery
from tests.support.told_store import ORDER, TRACE


def test_nothing_given_asks_for_the_newest_lines() -> None:
    assert asking.lines({}) == LineQuery()


def test_every_filter_has_its_parameter() -> None:
    asked = {
        "service": "order-1",
        "level": "warning",
        "text": " out of stock ",
        "trace": TRACE.upper(),
        "order": ORDER.removeprefix("orders/"),
        "since": "2026-03-01T12:00:00.000001Z",
        "until": "2026-03-01T14:00:01+02:00",
        "after": "7",
        "before": "9",
        "limit": "1000",
    }
    assert asking.lines(asked) == LineQuery(
        service="order-1",
        level="warning",
        text="out of stock",
        trace_id=TRACE,
        order=ORDER,
        since_ns=1772366400_000_001_000,
        until_ns=1772366401_000_000_000,
        after_id=7,
        limit=1000,
    )


@pytest.mark.parametrize(
    ("text", "before_s"), [("250ms", 0.25), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400)]
)
def test_a_time_may_be_a_duration_before_now(text: str, before_s: float) -> None:
    found = asking.instant({"since": text}, "since")
    assert found is not None
    assert abs((time.time_ns() - found) / 1e9 - before_s) < 5


def test_a_time_without_a_zone_is_utc() -> None:
    assert asking.instant({"t": "2026-03-01 12:00"}, "t") == asking.instant({"t": "2026-03-01T12:00:00Z"}, "t")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"colour": "red"}, "there is no parameter “colour”: there are service, level"),
        ({"level": "loud"}, "level is one of debug, info, warning, error, not “loud”"),
        ({"since": "yesterday"}, "since is a time such as"),
        ({"until": "2026-13-01T00:00:00Z"}, "until is a time such as"),
        ({"since": "999999999d"}, "since is a time such as"),
        ({"until": "9999-12-31T23:59:59-23:59"}, None),
        ({"since": "9999-01-01"}, None),
        ({"trace": "xyz"}, "32 hexadecimal digits"),
        ({"trace": "a" * 33}, "32 hexadecimal digits"),
        ({"order": "../../etc/passwd"}, "is no order"),
        ({"limit": "0"}, "limit is a number, 1 to 1000"),
        ({"limit": "1001"}, "limit is a number, 1 to 1000"),
        ({"limit": "٣"}, "limit is a number"),
        ({"after": "9" * 5000}, "after is a number, 0 or more"),
        ({"text": "x" * 501}, "text has 501 characters: at most 500"),
        ({"text": "a\x00b"}, "NUL"),
    ],
)
def test_what_cannot_be_asked_is_said_with_what_to_write_instead(asked: dict[str, str], said: str | None) -> None:
    if said is None:
        query = asking.lines(asked)
        assert max(query.since_ns, query.until_ns or 0) == 2**63 - 1
        return
    with pytest.raises(BadQuestion, match=said) as refused:
        asking.lines(asked)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("name", ["/evil.test", "orders/../x", f"{ORDER}\n", ORDER.upper(), "", 7])
def test_what_is_no_order_gets_no_link(name: object) -> None:
    assert not asking.is_order_name(name)
    assert asking.is_order_name(ORDER)
