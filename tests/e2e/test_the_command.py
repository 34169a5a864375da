"""What operators see."""

import json
import re

from tests.support.dead_letters import bury
from tests.support.shop import Shop
from tests.support.waiting import eventually

PARTS = {
    "product", "order", "inventory", "inventory-2", "notification", "envoy", "etcd", "nats", "postgres", "keycloak",
    "controlplane", "mailbox", "telemetry",
}  # fmt: skip


async def test_status_names_every_part_and_what_it_costs(shop: Shop) -> None:
    rows = json.loads(shop.command("status", "--json"))

    assert {row["name"] for row in rows} == PARTS
    assert all(set(row) == {"name", "state", "pid", "address", "rss_bytes", "pss_bytes"} for row in rows)
    assert all(row["state"] == "ready" and row["pid"] > 0 and row["pss_bytes"] > 0 for row in rows)
    # With a second instance of inventory, and after what other tests did.
    assert sum(row["pss_bytes"] for row in rows) < 1_200_000_000


async def test_the_demo_tells_an_order_from_beginning_to_end(shop: Shop) -> None:
    told = shop.command("demo")

    (id, *_) = re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", told)
    assert "ann@example.com" in told
    assert told.index("STATE_PLACED") < told.index("STATE_CANCELLED") < told.index("the shelf is as it was")
    shown = shop.command("order", id)
    for word in ("CANCELLED, version 2", "OrderPlaced", "OrderCancelled", "CONFIRMED", "RELEASED", "SENT", id):
        assert word in shown, shown

    async def logged() -> bool:
        lines = [json.loads(line) for line in shop.command("logs", "--order", id, "--json").splitlines()]
        return {line["service"] for line in lines} == {"envoy", "product", "order", "inventory", "notification"}

    await eventually(logged, "lines of all who had to do with the order")
    assert shop.command("resend", id) == "2 events will be sent again\n"


async def test_every_command_explains_itself(shop: Shop) -> None:
    commands = re.findall(r"^  ([a-z]+)  ", shop.command("--help").partition("Commands:")[2], re.MULTILINE)

    assert {"up", "down", "status", "logs", "token", "order", "demo"} <= set(commands)
    for command in commands:
        assert len(shop.command(command, "--help")) > 100


async def test_dead_letters_are_listed_shown_and_ended_over_the_edge(shop: Shop) -> None:
    garbled, unwanted = await bury(shop, "OPEN", "OPEN")

    refused = shop.command("deadletters", "redrive", garbled, check=False)
    discarded = shop.command("deadletters", "discard", unwanted, "--yes")

    assert refused == ""
    assert discarded == f"discarded {unwanted}\n"
    waiting = {row["name"] for row in json.loads(shop.command("deadletters", "list", "--json"))}
    assert garbled in waiting
    assert unwanted not in waiting
    told = json.loads(shop.command("deadletters", "show", unwanted, "--json"))
    assert (told["name"], told["state"], told["payload"]) == (unwanted, "DISCARDED", {})
