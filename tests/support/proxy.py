"""A wire that can be cut, and held at a word that goes over it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_SURELY_TAKEN_S = 0.5
_CONNECTIONS = set[asyncio.Task[None]]()
"""A loop alone does not hold on to a task, and one whose both ends are silent would be garbage."""


class Proxy:
    """Passes TCP connections on to a `host:port`."""

    def __init__(self, target: str) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.answers_to_lose = 0
        """So many answers, from now on, that came from the server never arrive: their connections are cut instead."""
        self.word_to_lose = b""
        """The next answer in which this stands never arrives either."""
        self.passes = asyncio.Event()
        """Cleared, it is a network that hangs: connections are taken, and what is sent arrives when it passes again."""
        self.passes.set()
        self.ends = asyncio.Event()
        """Cleared, a connection that the server has ended stays open for the client until it is set again."""
        self.ends.set()
        self.held = asyncio.Event()
        """Set when the word came by that `hold_at` or `hold_after` waits for."""
        host, _, port = target.rpartition(":")
        self._target = host.strip("[]"), int(port)
        self._word, self._delivers_it = b"", False
        self._ends = set[asyncio.StreamWriter]()
        self._server: asyncio.Server | None = None
        self._waiting = list[socket.socket]()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, sock=self._socket.dup())

    def close(self) -> None:
        """Connections go on until they are ended, but those that are held or kept open: these end now."""
        if self._server:
            self._server.close()
        if not self.passes.is_set():
            self.cut()
        self.ends.set()
        for each in (self._socket, *self._waiting):
            each.close()

    async def vanish(self) -> None:
        """For ever like a host that is gone: connections are cut, and who asks for one hears nothing, not even no."""
        assert self._server
        self._server.close()
        # Linux says nothing to who comes when as many as this wait to be accepted.
        self._socket.listen(0)
        while True:
            self._waiting.append(one := socket.socket())
            one.setblocking(False)
            try:
                async with asyncio.timeout(_SURELY_TAKEN_S):
                    await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", self.port))
            except TimeoutError:
                break
        self.cut()  # only now: whoever comes back at once would take a place in the queue

    def hold_at(self, word: bytes) -> None:
        """When the client next says this, nothing passes from there on, not even that."""
        self._word, self._delivers_it = word, False

    def hold_after(self, word: bytes) -> None:
        """When the client next says this, that arrives, and nothing passes from there on: the answer neither."""
        self._word, self._delivers_it = word, True

    def let_go(self) -> None:
        """What was held arrives, and nothing is waited for any more."""
        self._word = b""
        self.held.clear()
        self.passes.set()

    def cut(self) -> None:
        """Ends all connections, at both ends; what was held never arrives."""
        for end in self._ends:
            end.transport.abort()
        self.let_go()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._ends |= {writer, there_writer}
        if task := asyncio.current_task():
            _CONNECTIONS.add(task)
            task.add_done_callback(_CONNECTIONS.discard)
        try:
            async with asyncio.TaskGroup() as both:
                asked = both.create_task(self._pump(reader, there_writer))
                both.create_task(self._answers(there_reader, writer)).add_done_callback(lambda _: asked.cancel())
        finally:
            self._ends -= {writer, there_writer}
            writer.close()
            there_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                delivered = False
                if self._word and self._word in data:
                    self._word, delivered = b"", self._delivers_it
                    self.passes.clear()
                    self.held.set()
                if not delivered:
                    await self.passes.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.word_to_lose and self.word_to_lose in data:
                    self.word_to_lose = b""
                    return
                if self.answers_to_lose:
                    self.answers_to_lose -= 1
                    return
                await self.passes.wait()
                writer.write(data)
                await writer.drain()
            await self.ends.wait()


@asynccontextmanager
async def proxy_to(target: int | str) -> AsyncIterator[Proxy]:
    """A proxy in front of a `host:port`, or a port of 127.0.0.1, on a port of its own."""
    proxy = Proxy(target if isinstance(target, str) else f"127.0.0.1:{target}")
    await proxy.open()
    try:
        yield proxy
    finally:
        proxy.close()
