"""`shopmesh logs` where no shop runs: from the files."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.cli.__main__ import main
from services.cli.local.logs import LogFile


@pytest.fixture
def state(tmp_path: Path) -> Path:
    for part, message in (("order-2", "placed"), ("etcd", "compacted")):
        with closing(LogFile(tmp_path / "logs", part)) as log:
            log.write(
                json.dumps({"time": "2026-01-01T00:00:00Z", "level": "warning", "message": message}).encode() + b"\n"
            )
    return tmp_path


def logs(state: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["logs", "--state", str(state), *words])


def test_lines_go_to_stdout_and_where_they_come_from_to_stderr(state: Path) -> None:
    done = logs(state, "order")

    assert done.exit_code == 0
    assert done.stdout.splitlines() == ["2026-01-01", "00:00:00.000  order-2         warning  placed"]
    assert done.stderr == f"no shop runs here: these lines are from the files in {state / 'logs'}\n"


def test_json_is_an_object_per_line(state: Path) -> None:
    found = [json.loads(line) for line in logs(state, "--json").stdout.splitlines()]

    assert [(line["service"], line["message"]) for line in found] == [("etcd", "compacted"), ("order", "placed")]


def test_nothing_found_is_said_and_no_failure(state: Path) -> None:
    done = logs(state, "--level", "error")

    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.endswith("no line matches\n")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["bank"], "nothing is logged for bank: there is etcd, order, order-2"),
        (["--since", "soon"], "soon is no time: write 2026-03-01T12:00:00Z, or a duration such as 2h"),
        (["--order", "7"], "“7” is no order: give its id, as in orders/"),
        (["--trace", "7"], "7 is no trace id: write its 32 hexadecimal digits"),
        (["--level", "loud"], "'loud' is not one of 'debug', 'info', 'warning', 'error'"),
        (["--follow", "--until", "1m"], "--follow goes on, and --until ends: choose one of them"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_can(state: Path, words: list[str], why: str) -> None:
    done = logs(state, *words)

    assert done.exit_code != 0
    assert why in done.stderr


def test_where_no_shop_has_run_it_says_so(tmp_path: Path) -> None:
    done = logs(tmp_path)

    assert done.exit_code == 1
    assert "no shop has run there yet" in done.stderr
