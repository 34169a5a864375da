"""examples/place_order.py, run as its first lines say."""

import asyncio
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import DEADLINE_S

EXAMPLE = Path(__file__).parents[2] / "examples" / "place_order.py"


async def place_order(edge: str, token: str, *words: str) -> tuple[int | None, str, str]:
    """Exit status, output and complaints."""
    example = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLE, "--edge", edge, *words,
        env={"SHOPMESH_TOKEN": token}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        said, complained = await asyncio.wait_for(example.communicate(), DEADLINE_S)
    except TimeoutError:
        example.kill()
        await example.wait()
        raise
    return example.returncode, said.decode(), complained.decode()
