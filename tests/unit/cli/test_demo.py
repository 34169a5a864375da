import pytest

from services.cli.places import Places
from services.cli.shop.demo import run
from services.failure import Failure


async def test_a_shop_without_a_store_of_traces_is_told_before_anything_is_bought() -> None:
    told = list[str]()

    with pytest.raises(Failure, match="SHOPMESH_TELEMETRY"):
        await run(Places({"edge": "127.0.0.1:1", "mail": "127.0.0.1:2"}), told.append)

    assert told == []
