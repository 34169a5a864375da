"""After all calls: the shop is the one that was started, and nothing in it failed behind anybody's back."""

import json

from tests.fuzz.calling import Outside


def test_every_process_is_the_one_that_was_started(outside: Outside) -> None:
    assert {name: part["pid"] for name, part in outside.shop.parts().items()} == outside.processes


def test_no_process_met_an_error_that_nobody_foresaw(outside: Outside) -> None:
    # The shop is that of other tests, which had their own reasons for errors before.
    asked = ("logs", "--json", "--since", outside.since.isoformat())
    assert outside.shop.command(*asked, "-n", "1")
    met = [json.loads(line) for line in outside.shop.command(*asked, "--level", "error").splitlines()]
    assert met == []
