"""After all calls: the shop is the one that was started, and nothing in it failed behind anybody's back."""

import json
from datetime import datetime

from services.cli.logs import time_of
from tests.fuzz.calling import Outside


def test_every_process_is_the_one_that_was_started(outside: Outside) -> None:
    assert {name: part["pid"] for name, part in outside.shop.parts().items()} == outside.processes


def test_no_process_met_an_error_that_nobody_foresaw(outside: Outside) -> None:
    lines = [json.loads(line) for line in outside.shop.command("logs", "--json").splitlines()]

    # The shop is that of other tests, which had their own reasons for errors before.
    met = [line for line in lines if datetime.fromisoformat(time_of(line)) > outside.since]
    assert met
    assert [line for line in met if line["level"] in ("error", "critical")] == []
