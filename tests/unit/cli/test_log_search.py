import json
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import click
import pytest

from services.cli.local.logs import LogFile
from services.cli.telemetry.log_search import Files, Wanted, order_name, trace_id
from services.cli.telemetry.log_view import rendered
from services.failure import Failure
from services.log_files import Line, nanoseconds
from services.story.asking import CannotTell

TRACES = ["1" * 32, "2" * 32, "3" * 32]
ORDERS = [f"orders/6d1e4c0a-2f9b-5b7e-9a54-0f6f8a2f3c1{at}" for at in range(2)]


def write(folder: Path, part: str, *lines: dict[str, object]) -> None:
    log = LogFile(folder, part)
    log.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    log.close()


def at(second: int) -> str:
    return f"2026-11-29T07:00:{second:02}.000Z"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    write(
        tmp_path, "envoy",
        {"time": at(1), "message": "call", "trace_id": TRACES[0], "path": "/shop.order.v1.OrderService/PlaceOrder"},
        {"time": at(5), "message": "call", "level": "warning", "trace_id": TRACES[1]},
    )  # fmt: skip
    write(
        tmp_path, "order",
        {"time": at(2), "message": "call", "trace_id": TRACES[0], "order": ORDERS[0], "code": "OK"},
        {"time": at(6), "message": "order rejected", "level": "warning", "order": ORDERS[1], "reason": "OUT_OF_STOCK"},
        {"time": at(8), "message": "Zürich cannot be reached", "level": "error"},
    )  # fmt: skip
    write(tmp_path, "order-2", {"time": at(3), "message": "call", "trace_id": TRACES[2], "errors": [{"e": "deep"}]})
    return Files(tmp_path)


def seconds(found: list[Line]) -> list[int]:
    base = nanoseconds(at(0))
    assert base is not None
    return [(line.time_ns - base) // 1_000_000_000 for line in found]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), [1, 2, 3, 5, 6, 8]),
        (Wanted(limit=2), [6, 8]),
        (Wanted(service="order"), [2, 3, 6, 8]),
        (Wanted(service="order-2"), [3]),
        (Wanted(service="bank"), []),
        (Wanted(level="warning"), [5, 6, 8]),
        (Wanted(level="error", service="order"), [8]),
        (Wanted(trace=TRACES[0]), [1, 2]),
        (Wanted(order=ORDERS[0]), [1, 2]),
        (Wanted(order=ORDERS[0], service="envoy"), [1]),
        (Wanted(order=ORDERS[1]), [6]),
        (Wanted(text="OUT stock"), [6]),
        (Wanted(text="placeorder"), [1]),
        (Wanted(text="zurich"), [8]),
        (Wanted(text="OUT_OF_ST"), [6]),
        (Wanted(text="STOCK_OUT"), []),
        (Wanted(text="**"), []),
        (Wanted(text="dee"), [3]),
        (Wanted(text="eep"), []),
        (Wanted(since_ns=nanoseconds(at(3)) or 0, until_ns=nanoseconds(at(6))), [3, 5, 6]),
    ],
)
def test_what_is_asked_for_is_found_in_order_of_time(files: Files, wanted: Wanted, expected: list[int]) -> None:
    assert seconds(files.newest(wanted)) == expected


def test_what_comes_later_is_told_once_also_by_a_part_that_is_new(files: Files, tmp_path: Path) -> None:
    wanted = Wanted(order=ORDERS[1])
    files.newest(wanted)
    write(tmp_path, "notification", {"time": at(11), "message": "sent", "order": ORDERS[1], "trace_id": TRACES[2]})
    write(tmp_path, "envoy", {"time": at(10), "message": "call", "trace_id": TRACES[1]})

    assert seconds(files.later(wanted)) == [11]
    write(tmp_path, "envoy", {"time": at(12), "message": "call", "trace_id": TRACES[2]})
    assert seconds(files.later(wanted)) == [12], "its trace is known from the batch before"
    assert files.later(wanted) == []
    assert seconds(files.later(replace(wanted, order=""))) == []


def test_names_are_services_and_instances(files: Files) -> None:
    assert files.names() == ["envoy", "order", "order-2"]


def test_only_ids_are_asked_for() -> None:
    assert order_name(ORDERS[0].removeprefix("orders/").upper()) == ORDERS[0]
    assert trace_id("A" * 32) == "a" * 32
    assert order_name(UUID(ORDERS[0].removeprefix("orders/")).hex) == ORDERS[0], "as `order` and `trace` read it"
    with pytest.raises(CannotTell, match="“7” is no order"):
        order_name("7")
    with pytest.raises(Failure, match="xyz is no trace id"):
        trace_id("xyz")


def line(**facts: object) -> Line:
    said = Line(1795935600123456000, "error", "order", "order-2", "one\ntwo", TRACES[0], "", ORDERS[0], {})
    return said._replace(**facts)  # type: ignore[arg-type]


def test_a_line_reads_as_time_part_level_message_and_facts() -> None:
    text = click.unstyle(
        rendered(line(message="call", fields={"ms": 1.5, "reason": "", "caller": "a b", "code": "OK", "flags": "-"}))
    )

    assert text == (
        "07:00:00.123  order-2         error    call  "
        f'code=OK ms=1.5 caller="a b" order={ORDERS[0]} trace_id={TRACES[0]}'
    )


def test_what_has_several_lines_stands_below() -> None:
    text = click.unstyle(rendered(line(trace_id="", order="", fields={"exception": "Traceback\n  File\nKeyError"})))

    assert text.splitlines() == [
        "07:00:00.123  order-2         error    one",
        "    two",
        "    exception:",
        "      Traceback",
        "        File",
        "      KeyError",
    ]


def test_hostile_text_stays_text() -> None:
    text = click.unstyle(rendered(line(message="\x1b]0;owned\x07\x1b[2J\u202e", fields={"\x1bk": "\x9b31m"})))

    assert text.isprintable()
