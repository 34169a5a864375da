"""What `shopmesh canary` makes of a policy."""

from typing import Any

import pytest
from mesh.v1 import policy_pb2

from services.chassis.documents import parsed
from services.cli.documents.canary import with_canary, without_canary
from services.cli.documents.revisions import written
from services.failure import Failure

RUNNING = {"1.0", "2.0"}
LIMIT = {"circuit_breaker": {"max_requests": 5}}


def shares(document: dict[str, Any]) -> dict[str, int]:
    parsed((written(document) or "{}").encode(), policy_pb2.Policy)  # which raises for what is no policy
    return {each["version"]: each["weight"] for each in document.get("canary", {}).get("weights", [])}


@pytest.mark.parametrize(
    ("before", "running", "share", "header", "expected"),
    [
        ({}, RUNNING, "10%", None, {"1.0": 90, "2.0": 10}),
        ({}, {"1.0"}, "10", None, {"1.0": 90, "2.0": 10}),
        ({}, RUNNING, "100%", None, {"1.0": 0, "2.0": 100}),
        ({}, RUNNING, None, "X-Canary=yes", {"1.0": 100, "2.0": 0}),
        (with_canary({}, RUNNING, "2.0", "10%", None)[0], {"2.0"}, "50%", None, {"1.0": 50, "2.0": 50}),
    ],
)
def test_the_rest_of_the_calls_stays_with_the_version_before(
    before: dict[str, Any], running: set[str], share: str | None, header: str | None, expected: dict[str, int]
) -> None:
    document, _ = with_canary({**LIMIT, **before}, running, "2.0", share, header)

    assert shares(document) == expected
    assert document["circuit_breaker"] == LIMIT["circuit_breaker"]
    matches = [{"version": "2.0", "header": {"name": "x-canary", "value": "yes"}}]
    assert document["canary"].get("matches", []) == (matches if header else [])


@pytest.mark.parametrize(
    ("running", "share", "header", "why"),
    [
        (RUNNING, "101%", None, "0% to 100%"),
        (RUNNING, "-1", None, "0% to 100%"),
        (RUNNING, "much", None, "0% to 100%"),
        (RUNNING, None, "x-canary", "NAME=VALUE"),
        ({"2.0"}, "10%", None, "which version is 2.0 a canary of"),
        ({"1.0", "1.1", "2.0"}, "10%", None, "1.0, 1.1"),
    ],
)
def test_what_says_too_little_is_refused(running: set[str], share: str | None, header: str | None, why: str) -> None:
    with pytest.raises(Failure, match=why):
        with_canary({}, running, "2.0", share, header)


def test_off_leaves_no_call_with_a_version_that_still_runs_and_then_nothing() -> None:
    document, _ = with_canary(LIMIT, RUNNING, "2.0", "10%", "x-canary=yes")

    first, said = without_canary(document, RUNNING)
    assert (shares(first), "matches" in first["canary"]) == ({"1.0": 100, "2.0": 0}, False)
    assert "none to 2.0" in said
    assert without_canary(first, {"1.0"})[0] == LIMIT
    assert without_canary(LIMIT, RUNNING) == (LIMIT, "no canary")
