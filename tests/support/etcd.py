"""An etcd for tests."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import override

from services.cli.etcd import release
from tests.support.servers import Server


class EtcdServer(Server):
    """One member on 127.0.0.1; `endpoint` is what SHOPMESH_ETCD takes."""

    ports = 2

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @override
    def command(self) -> Sequence[str | Path]:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.port, *self.other_ports))
        return [
            release().program, "--name=test", f"--data-dir={self.folder / 'data'}",
            "--log-level=warn", "--unsafe-no-fsync",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=test={peer}",
        ]  # fmt: skip

    def wipe(self) -> None:
        """Kills it and starts an empty one: its revisions begin anew."""
        self.kill()
        shutil.rmtree(self.folder / "data")
        self.start()


@contextmanager
def running_etcd() -> Iterator[EtcdServer]:
    """Starts one and removes it, with all its data, in the end."""
    with TemporaryDirectory(prefix="shopmesh-test-etcd-") as folder:
        server = EtcdServer(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.kill()
