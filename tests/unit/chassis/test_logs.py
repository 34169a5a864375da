"""What a line looks like."""

import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from services.chassis import logs
from services.chassis.tracing import span


class Written(io.TextIOWrapper):
    def lines(self) -> list[dict[str, Any]]:
        self.buffer.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return [orjson.loads(line) for line in self.buffer.getvalue().splitlines()]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """All that is logged, as `order-1` of `order`."""
    written = Written(io.BytesIO())
    config, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", written)
        logs.configure("order", "order-1")
    yield written
    structlog.configure(**config)
    root.handlers[:], root.level = handlers, level
    logs.set_level("INFO")
    logs.bind_order(None)


def test_a_line_tells_who_says_it_and_about_which_trace_and_order(written: Written) -> None:
    with span("settling", parent=f"00-{'a' * 32}-{'b' * 16}-01"):
        logs.bind_order("orders/o1")
        logs.get().info("order settled", version=2)

    (line,) = written.lines()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info", "service": "order", "instance": "order-1", "message": "order settled",
        "trace_id": "a" * 32, "span_id": "b" * 16, "order": "orders/o1", "version": 2,
    }  # fmt: skip


def test_the_level_changes_while_a_logger_is_in_use(written: Written) -> None:
    log = logs.get()
    log.debug("one")
    logs.set_level("DEBUG")
    log.debug("two")
    logs.set_level("ERROR")
    log.warning("three")
    log.error("four")

    assert [line["message"] for line in written.lines()] == ["two", "four"]


def test_an_exception_comes_with_its_traceback(written: Written) -> None:
    try:
        dict[str, str]()["mug"]
    except KeyError:
        logs.get().exception("it broke")

    (line,) = written.lines()
    assert line["exception"].endswith("KeyError: 'mug'\n")
    assert line["level"] == "error"


def test_what_a_library_says_is_a_line_too(written: Written) -> None:
    logging.getLogger("asyncpg").warning("the %s is gone", "connection")
    logging.getLogger("asyncpg").info("not worth a line")

    (line,) = written.lines()
    assert (line["message"], line["logger"], line["level"]) == ("the connection is gone", "asyncpg", "warning")


def test_what_json_does_not_know_is_written_as_text(written: Written) -> None:
    logs.get().info("odd", value={1, 2}.__class__)

    assert written.lines()[0]["value"] == "<class 'set'>"


def test_a_line_that_cannot_be_written_ends_nothing() -> None:
    script = "from services.chassis import logs; logs.configure('order', 'a'); logs.get().info('said')"
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, "-uc", script], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )

    assert (process.returncode, process.stderr) == (0, "")
