"""The README's tour, as printed, with the ports of this shop in place of the usual ones."""

import asyncio
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.support.shop import Shop
from tests.support.waiting import DEADLINE_S

README = Path(__file__).parents[2] / "README.md"


def tour() -> list[str]:
    """The blocks of shell commands under "A tour"."""
    (section,) = re.findall(r"^## A tour\n(.*?)^## ", README.read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


async def walked(shop: Shop, commands: str) -> str:
    """What one shell says to all of it, stopping at the first command that fails."""
    for usual, port in {"8080": "edge", "8025": "mail"}.items():
        commands = commands.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{shop.ports[port]}")
    commands = commands.replace(".venv/bin/", f"{Path(sysconfig.get_path('scripts'))}/")
    if not shutil.which("grpcurl"):
        commands = re.sub(r"^grpcurl .*\n", "", commands, flags=re.MULTILINE)
    shell = await asyncio.create_subprocess_exec(
        "bash", "-ec", commands,
        env={**os.environ, "SHOPMESH_STATE": str(shop.state)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(shell.communicate(), DEADLINE_S)
    assert shell.returncode == 0, said.decode()
    return said.decode()


@pytest.mark.skipif(not shutil.which("curl"), reason="the tour needs curl")
async def test_the_tour_works_as_printed(shop: Shop) -> None:
    demo, *by_hand, looking = tour()

    told = await walked(shop, demo)
    (id, *_) = re.findall(r"orders/([0-9a-f-]{36})", told)
    said = await walked(shop, "\n".join(by_hand))
    seen = await walked(shop, re.sub(r"\bID\b", id, looking))

    assert said.count("STATE_PLACED") >= 2
    for word in ("OUT_OF_STOCK", "ann@example.com", '"code":16'):
        assert word in said.replace(" ", ""), said
    assert "CONFIRMED" in seen
