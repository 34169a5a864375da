"""The door of a supervisor, knocked at by real clients."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.cli.local import control
from services.cli.local.control import Tell, ask
from services.cli.local.state import StateFolder
from services.failure import Failure
from tests.support.waiting import eventually


@asynccontextmanager
async def door(folder: StateFolder, command: control.Command) -> AsyncIterator[None]:
    with folder.hold():
        folder.write({"pid": os.getpid(), "ports": {"edge": 1}, "parts": []})
        serving = asyncio.create_task(control.serve(folder.path, {"count": command}))

        async def is_there() -> bool:
            return (folder.path / control.SOCKET).exists()

        await eventually(is_there, "the socket")
        try:
            yield
        finally:
            serving.cancel()
            await asyncio.wait({serving})


async def asked(folder: StateFolder, **facts: object) -> list[str]:
    return await asyncio.to_thread(lambda: list(ask(folder, "count", **facts)))


async def count(facts: Mapping[str, Any], tell: Tell) -> None:
    if facts["to"] > 3:
        raise Failure("that is too far")
    for number in range(facts["to"]):
        tell(str(number))


async def test_what_happens_is_told_and_a_refusal_is_raised(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / ("deep" * 40) / "state")  # an address of a socket takes 107 characters
    async with door(folder, count):
        assert await asked(folder, to=2) == ["0", "1"]
        with pytest.raises(Failure, match="that is too far"):
            await asked(folder, to=4)
        with pytest.raises(Failure, match="not understood"):
            await asked(folder)
        assert (folder.path / control.SOCKET).stat().st_mode & 0o777 == 0o600


async def test_what_was_begun_goes_on_when_the_asker_leaves_and_the_next_one_waits(tmp_path: Path) -> None:
    folder, begun, go_on, ended = StateFolder(tmp_path), asyncio.Event(), asyncio.Event(), list[int]()

    async def slow(facts: Mapping[str, Any], tell: Tell) -> None:
        begun.set()
        await go_on.wait()
        tell("gone on")
        ended.append(facts["to"])

    async with door(folder, slow):
        with socket.socket(socket.AF_UNIX) as leaving:
            leaving.connect(str(folder.path / control.SOCKET))
            leaving.sendall(b'{"do": "count", "to": 1}\n')
            await begun.wait()
        next_one = asyncio.create_task(asked(folder, to=2))
        asyncio.get_running_loop().call_later(0.1, go_on.set)

        assert (await next_one)[-1] == "gone on"
        assert ended == [1, 2]


async def test_without_a_shop_or_before_it_is_ready_one_line_says_so(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    with pytest.raises(Failure, match="no shop runs"):
        await asked(folder, to=1)
    with folder.hold():
        folder.write({"pid": os.getpid(), "ports": {"edge": 1}, "parts": []})
        with pytest.raises(Failure, match="is not ready yet"):
            await asked(folder, to=1)
