"""An etcd for tests."""

import shutil
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import override

import httpx

from services.cli.local.etcd import release
from tests.support.servers import Server


@dataclass(frozen=True, slots=True)
class Kept:
    """One key, and whether it goes with a lease."""

    key: str
    value: bytes
    leased: bool


def listed(endpoint: str, prefix: str) -> list[Kept]:
    """What an etcd at `host:port` keeps under a prefix, by its own gateway.

    Raises AssertionError when it does not answer.
    """
    key, end = ((prefix[:-1] + chr(ord(prefix[-1]) + more)).encode() for more in (0, 1))
    question = {"key": b64encode(key).decode(), "range_end": b64encode(end).decode()}
    try:
        # Loading the certificates of a machine takes ten times as long as the answer.
        answer = httpx.post(f"http://{endpoint}/v3/kv/range", json=question, trust_env=False, verify=False)
    except httpx.HTTPError as error:
        raise AssertionError(f"etcd does not answer: {error}") from error
    return [
        Kept(b64decode(one["key"]).decode(), b64decode(one["value"]), "lease" in one)
        for one in answer.json().get("kvs", [])
    ]


class EtcdServer(Server):
    """A member on 127.0.0.1, alone if nobody says otherwise."""

    ports = 2

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.members: Sequence[EtcdServer] = [self]

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def endpoints(self) -> str:
        """Of all members: what SHOPMESH_ETCD takes."""
        return ",".join(member.endpoint for member in self.members)

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

    @override
    def answers(self) -> bool:
        # The port accepts before there is a leader; and of several members the first to start cannot have one.
        if len(self.members) > 1:
            return super().answers()
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://{self.endpoint}/health", trust_env=False, verify=False).is_success
        return False

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def entries(self, prefix: str) -> dict[str, bytes]:
        """What is kept under a prefix. Raises AssertionError when etcd does not answer."""
        return {entry.key: entry.value for entry in listed(self.endpoint, prefix)}

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

    def churn(self, prefix: str, times: int) -> None:
        """Many changes under a prefix, of 4 KiB each, none of which is left; then compacted: no watch can go back."""
        key = b64encode(f"{prefix}churn".encode()).decode()
        with httpx.Client(base_url=f"http://{self.endpoint}/v3/kv/", trust_env=False, verify=False) as client:
            for _ in range(times):
                client.post("put", json={"key": key, "value": b64encode(b" " * 4096).decode()})
            last = client.post("deleterange", json={"key": key}).json()["header"]["revision"]
            client.post("compaction", json={"revision": last, "physical": True}).raise_for_status()


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
