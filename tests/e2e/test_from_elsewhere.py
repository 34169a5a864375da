"""The command beside a shop that something else runs: told where all is by its environment, without a state folder."""

import json
import re

import pytest

from tests.support.shop import Shop
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def demo(shop: Shop) -> str:
    """What the demo told, of an order that was placed and cancelled."""
    return shop.command("demo", elsewhere=True)


@pytest.fixture(scope="module")
def order(demo: str) -> str:
    found = re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}", demo)
    assert found
    return found[0]


def test_the_demo_tells_its_order(demo: str) -> None:
    assert "ann@example.com" in demo
    assert demo.index("STATE_PLACED") < demo.index("STATE_CANCELLED") < demo.index("the shelf is as it was")


@pytest.mark.parametrize("words", ["order {} --json", "trace --order {}", "logs --order {} --json"])
async def test_what_it_tells_is_the_same_as_beside_the_folder(shop: Shop, order: str, words: str) -> None:
    command = words.format(order).split()

    async def the_same() -> bool:  # spans and lines may be on their way at first
        return shop.command(*command, elsewhere=True) == shop.command(*command) != ""

    await eventually(the_same, f"the same answer of {words}")


def test_it_watches_an_order_with_a_token_of_its_own(shop: Shop, order: str) -> None:
    assert "CANCELLED" in shop.command("order", order, "--watch", elsewhere=True)


def test_it_gets_tokens(shop: Shop) -> None:
    assert shop.command("token", "ann", elsewhere=True).count(".") == 2


def test_it_audits_all_of_it(shop: Shop, order: str) -> None:
    report = json.loads(shop.command("audit", "--deep", "--json", "--since", "1m", elsewhere=True))

    assert report["differences"] == []
    assert report["looked_at"]["messages"] >= 2


def test_it_sends_events_again(shop: Shop, order: str) -> None:
    assert shop.command("resend", order, elsewhere=True) == "2 events will be sent again\n"


def test_its_status_is_of_who_registered_and_who_answers(shop: Shop) -> None:
    rows = {row["name"]: row for row in json.loads(shop.command("status", "--json", elsewhere=True))}

    assert {row["state"] for row in rows.values()} == {"ready"}
    assert {*rows} >= {"product", "order", "inventory", "inventory-2", "notification", "edge", "identity", "envoy",
                       "etcd", "nats", "postgres", "telemetry", "mail"}  # fmt: skip
    assert rows["order"]["address"] == shop.address("order")


def test_its_mesh_is_that_of_the_shop(shop: Shop) -> None:
    services = json.loads(shop.command("mesh", "--json", elsewhere=True))

    assert [(each["service"], each["breaker"], len(each["instances"])) for each in services] == [
        ("product", "closed", 1), ("order", "closed", 1), ("inventory", "closed", 2), ("notification", "closed", 1)
    ]  # fmt: skip
    assert f"listener edge, {shop.edge}" in shop.command("mesh", "explain", "edge", "order", elsewhere=True)


def test_a_policy_is_in_effect_in_envoy_when_it_returns(shop: Shop) -> None:
    done = shop.command("policy", "set", "order", "retries.budget_percent=21", elsewhere=True)
    undone = shop.command("policy", "unset", "order", elsewhere=True)

    assert "in effect in Envoy after" in done
    assert "in effect in Envoy after" in undone


def test_it_leaves_demo_data_that_are_there(shop: Shop) -> None:
    assert re.fullmatch(r"\d+ products, \d+ stocked\n", shop.command("demo-data", elsewhere=True))
