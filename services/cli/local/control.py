"""The door of a supervisor: a socket in the state folder, through which commands steer the running shop.

One request per connection, a line of JSON {"do", ...}; answered by lines {"say"} as things happen and a last one
{"done"} or {"error"}. Only the user who started the shop can open it. What was begun goes on when the asker leaves, so
that nothing is left half done; a second one waits until the first is through.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.cli.local.state import StateFolder
from services.cli.settings import shown
from services.failure import Failure

SOCKET = "control"

type Tell = Callable[[str], None]
type Command = Callable[[Mapping[str, Any], Tell], Awaitable[None]]


async def serve(folder: Path, commands: Mapping[str, Command]) -> None:
    """Answers until it is cancelled; then what is under way is cancelled too."""
    one_at_a_time = asyncio.Lock()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def write(kind: str, text: object) -> None:
            writer.write(json.dumps({kind: text}).encode() + b"\n")

        try:
            asked = json.loads(await reader.readline())
            command = commands[asked["do"]]
            if one_at_a_time.locked():
                write("say", "waiting for another command to end")
            async with one_at_a_time:
                await command(asked, lambda text: write("say", text))
            write("done", asked["do"])
        except (Failure, OSError) as error:
            write("error", str(error))
        except (ValueError, KeyError, TypeError) as error:
            write("error", f"not understood: {error!r}")
        finally:
            writer.close()

    async with asyncio.TaskGroup() as answers:
        with _short_path(folder) as path:
            path.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                server = await asyncio.start_unix_server(
                    lambda reader, writer: answers.create_task(answer(reader, writer)), path
                )
            finally:
                os.umask(before)
        async with server:
            await server.serve_forever()


def ask(folder: StateFolder, do: str, **facts: object) -> Iterator[str]:
    """What the supervisor says while it does it. Raises Failure when it cannot, or when no shop runs there."""
    folder.ports()
    try:
        with socket.socket(socket.AF_UNIX) as door:
            with _short_path(folder.path) as path:
                door.connect(str(path))
            door.sendall(json.dumps({"do": do, **facts}).encode() + b"\n")
            with door.makefile("r") as lines:
                for line in lines:
                    told = json.loads(line)
                    if "error" in told:
                        raise Failure(told["error"])
                    if "done" in told:
                        return
                    yield told["say"]
    except (FileNotFoundError, ConnectionError):
        pass
    state = "is being stopped" if folder.read().get("stopping") else "is not ready yet"
    raise Failure(f"the shop in {shown(folder.path)} {state}: see `shopmesh status`")


@contextmanager
def _short_path(folder: Path) -> Iterator[Path]:
    """Where the socket is, in few characters: its address takes no more than 107, and folders are deep at times."""
    here = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{here}/{SOCKET}")
    finally:
        with contextlib.suppress(OSError):
            os.close(here)
