"""How what went wrong is put into a line."""

from services.chassis.patience import describe


def test_a_failure_is_one_line_with_what_was_behind_it() -> None:
    error = RuntimeError("no\n\tconnection")
    error.__cause__ = ValueError("refused")

    assert describe(error) == "RuntimeError: no connection (ValueError: refused)"
