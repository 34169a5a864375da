"""A NATS with JetStream for tests."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import override

from tests.support.servers import BIN, Server


class NatsServer(Server):
    """One server on 127.0.0.1; `url` is what SHOPMESH_NATS_URL takes."""

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @override
    def command(self) -> Sequence[str | Path]:
        return [BIN / "nats-server", "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", self.folder / "data"]

    def wipe(self) -> None:
        """Kills it and starts an empty one."""
        self.kill()
        shutil.rmtree(self.folder / "data")
        self.start()


@contextmanager
def running_nats() -> Iterator[NatsServer]:
    """Starts one and removes it, with all its data, in the end."""
    with TemporaryDirectory(prefix="shopmesh-test-nats-") as folder:
        server = NatsServer(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.kill()
