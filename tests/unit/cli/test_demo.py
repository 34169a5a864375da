import pytest

from services.cli.demo import run
from services.cli.process import CannotStart


async def test_a_shop_that_an_older_version_started_is_told_apart() -> None:
    told = list[str]()

    with pytest.raises(CannotStart, match="by a version without traces: start it again"):
        await run({"edge": 1, "mail": 2}, "http://127.0.0.1:3", told.append)

    assert told == []
