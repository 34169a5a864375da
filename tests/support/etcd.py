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
    """A member on 127.0.0.1, alone if nobody says otherwise; `endpoint` is what SHOPMESH_ETCD takes."""

    ports = 2

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.members: Sequence[EtcdServer] = [self]

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @override
    def command(self) -> Sequence[str | Path]:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.port, *self.other_ports))
        cluster = ",".join(f"member-{member.port}=http://127.0.0.1:{member.other_ports[0]}" for member in self.members)
        return [
            release().program, f"--name=member-{self.port}", f"--data-dir={self._data}",
            "--log-level=warn", "--unsafe-no-fsync", f"--initial-cluster={cluster}",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
        ]  # fmt: skip

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def wipe(self) -> None:
        """Kills it and starts an empty one: its revisions begin anew."""
        self.kill()
        shutil.rmtree(self._data)
        self.start()

    def back_up(self) -> None:
        """Keeps what it holds now; it is away for a moment."""
        self.stop()
        shutil.copytree(self._data, self.folder / "backup")
        self.start()

    def restore(self) -> None:
        """Kills it and starts what was backed up: its revisions go back."""
        self.kill()
        shutil.rmtree(self._data)
        (self.folder / "backup").rename(self._data)
        self.start()


@contextmanager
def running_etcd() -> Iterator[EtcdServer]:
    """Starts one and removes it, with all its data, in the end."""
    with running_etcds(1) as (server,):
        yield server


@contextmanager
def running_etcds(count: int) -> Iterator[Sequence[EtcdServer]]:
    """One etcd of so many members."""
    with TemporaryDirectory(prefix="shopmesh-test-etcd-") as folder:
        members = []
        for number in range(count):
            (Path(folder) / str(number)).mkdir()
            members.append(EtcdServer(Path(folder) / str(number)))
        try:
            for member in members:
                member.members = members
                member.start()
            yield members
        finally:
            for member in members:
                member.kill()
