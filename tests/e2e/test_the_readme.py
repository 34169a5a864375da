"""What the documents tell a reader to type, as printed, with the ports of this shop in place of the usual ones."""

import asyncio
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import httpx
import pytest

from tests.support.shop import Shop
from tests.support.waiting import DEADLINE_S, eventually

CHECKOUT = Path(__file__).parents[2]
CALLS = "rpc_server_call_duration_seconds_count"
ENOUGH = 4
"""Rpcs that were served: an order alone needs as many."""

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="the README needs curl")


def commands(title: str, document: str = "README.md") -> list[str]:
    """The blocks of shell commands under a title."""
    (section,) = re.findall(rf"^## {title}\n(.*?)^## ", (CHECKOUT / document).read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


async def walked(shop: Shop, script: str) -> str:
    """What one shell says to all of it, stopping at the first command that fails."""
    for usual, port in {
        "127.0.0.1:8080": "edge",
        "127.0.0.1:8025": "mail",
        "127.0.0.1:8026": "telemetry",
        "localhost:8180": "keycloak",
    }.items():
        script = script.replace(usual, f"{usual.partition(':')[0]}:{shop.ports[port]}")
    if not shutil.which("grpcurl"):
        script = re.sub(r"^grpcurl .*\n", "", script, flags=re.MULTILINE)
    told = {
        "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
        "SHOPMESH_STATE": str(shop.state),
        "SHOPMESH_CLIENT_SECRET_FILE": str(shop.state / "secrets" / "order"),
    }
    shell = await asyncio.create_subprocess_exec(
        "bash", "-ec", script, env=os.environ | told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(shell.communicate(), DEADLINE_S)
    assert shell.returncode == 0, said.decode()
    return said.decode()


async def test_the_tour_works_as_printed(shop: Shop) -> None:
    demo, *by_hand, looking = commands("A tour")
    # It tells of the dead letters of other tests too; tests/e2e/test_audit.py judges.
    looking = looking.replace("shopmesh audit", "shopmesh audit || true")

    told = await walked(shop, demo)
    (id, *_) = re.findall(r"orders/([0-9a-f-]{36})", told)
    said = await walked(shop, "\n".join(by_hand))
    seen = await walked(shop, re.sub(r"\bID\b", id, looking))

    assert said.count("STATE_PLACED") >= 2
    for word in ("OUT_OF_STOCK", "ann@example.com", '"code":16'):
        assert word in said.replace(" ", ""), said
    assert "CONFIRMED" in seen
    assert "looked at" in seen


async def test_an_order_is_seen_as_printed(shop: Shop) -> None:
    demo, *_ = commands("A tour")
    of_the_order, of_all = commands("See it")

    (id, *_) = re.findall(r"orders/([0-9a-f-]{36})", await walked(shop, demo))
    seen = await walked(shop, re.sub(r"\bID\b", id, of_the_order))
    await eventually(lambda: many_have_told(shop), "processes have told what they count")
    said = await walked(shop, of_all)

    waterfall, _, lines = seen.rpartition("smtp send")
    for service in ("demo", "envoy", "order", "product", "inventory", "notification"):
        assert f"\n{service} " in waterfall, seen
    assert "mail sent" in lines, seen
    assert "process.log_level" in said, said
    assert any(int(line) >= ENOUGH for line in said.splitlines() if line.isdigit()), said


async def many_have_told(shop: Shop) -> bool:
    """What they have counted: a process tells every few seconds, and those of this shop may have just begun."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"{shop.pages}/metrics")).text
    return text.count(f"\n{CALLS}{{") >= ENOUGH


async def test_an_order_waits_for_inventory_as_printed(shop: Shop) -> None:
    (script,) = commands("When Inventory is away")

    # This shop has two, and other tests want them back.
    script = script.replace("scale inventory 1", "scale inventory 2")
    said = await walked(shop, f"cd {shop.state}\n{script}")

    for word in ("INVENTORY_UNAVAILABLE", "STATE_PENDING_STOCK", "-> INVENTORY_AWAY_PENDING_STOCK", "CONFIRMED"):
        assert word in said, said
    assert "OUT_OF_STOCK" not in said


async def test_the_mesh_is_steered_as_printed(shop: Shop) -> None:
    looking, limiting, canary = commands("Steering the mesh")

    seen = await walked(shop, looking)
    limited = await walked(shop, limiting)
    tried = await walked(shop, canary)

    assert "PlaceOrder" not in seen
    for word in ("ReserveStock", "[contract: idempotent]", "[seed]"):
        assert word in seen, seen
    assert re.findall(r"^(200|429)$", limited, re.MULTILINE) == ["200", "200", "429", "429"]
    assert "rate_limit.address.calls 1 -> 200" in limited
    assert "product@2.0-test" in tried


async def test_behaviour_is_changed_as_the_operators_document_says(shop: Shop) -> None:
    documents, *_, faults = commands("Changing behaviour: `config` and `policy`", "docs/operating.md")

    changed = await walked(shop, documents)
    broken = await walked(shop, faults)

    assert "hold_ttl 900s -> 600s" in changed, changed
    assert "ReserveStock" in broken


async def test_the_recipes_work_as_printed(shop: Shop) -> None:
    said = await walked(shop, "\n".join(commands("Three doors")))

    for word in (
        '"/v1/orders/{order}:cancel"',
        '"displayName":"Blue Mug"',
        '"inStock":true',
        '"state":"STATE_CANCELLED"',
        '"description": "Malty."',
        '"archived": true',
        "grpc-status:0",
    ):
        assert word in said, said
    assert "details" not in said, f"one of them was refused: {said}"


@pytest.mark.skipif(not shutil.which("grpcurl"), reason="grpcurl is not installed")
async def test_the_recipes_of_grpcurl_tell_what_they_should(shop: Shop) -> None:
    (block,) = [block for block in commands("Three doors") if "grpcurl" in block]

    said = await walked(shop, block)

    for word in ("shop.order.v1.OrderService", "rpc CancelOrder", '"status": "SERVING"', '"products/blue-mug"'):
        assert word in said, said


async def test_people_and_services_get_tokens_as_the_api_document_says(shop: Shop) -> None:
    for block in commands("Tokens", "docs/api.md"):
        assert '"access_token":' in await walked(shop, block)
