"""Every field of every configuration takes effect while the process runs: it is read when it is used, never kept.

A field that is copied at start would be read while the service is wired; one that a task copies before its loop would
not be read again after a change; one that nobody reads is named by no code.
"""

import ast
import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, override

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from mesh.v1 import config_pb2, policy_pb2
from shop.inventory.v1.config_pb2 import InventoryConfig
from shop.notification.v1.config_pb2 import NotificationConfig
from shop.order.v1.config_pb2 import OrderConfig
from shop.product.v1.config_pb2 import ProductConfig

import services
from services.chassis.config import LiveConfig
from services.chassis.server import Process
from services.chassis.settings import Settings
from tests.support.etcd import EtcdServer
from tests.support.nats import NatsServer
from tests.support.postgres import Postgres
from tests.support.waiting import eventually

CONFIGS: dict[str, type[Message]] = {
    "product": ProductConfig,
    "order": OrderConfig,
    "inventory": InventoryConfig,
    "notification": NotificationConfig,
}

LOOPS = {"inventory": {"reap_interval"}}
"""What background tasks read whether or not anything happens."""


@dataclass
class Readings:
    """Which fields were read, and by which task."""

    by_task: dict[asyncio.Task[Any] | None, set[str]] = field(default_factory=dict)

    def note(self, name: str) -> None:
        self.by_task.setdefault(asyncio.current_task(), set()).add(name)


class Read:
    """A configuration that notes what is read of it."""

    def __init__(self, config: Any, readings: Readings) -> None:
        self._config, self._readings = config, readings

    def __getattr__(self, name: str) -> Any:
        self._readings.note(name)
        return getattr(self._config, name)


class WatchedConfig(LiveConfig[Any]):
    """In place of a process's own, with the same defaults."""

    def __init__(self, own: LiveConfig[Any], readings: Readings) -> None:
        super().__init__(own._etcd, own._key, own._seed, own._file)
        self._readings = readings

    @property
    @override
    def current(self) -> Any:
        return Read(super().current, self._readings)

    def change(self) -> None:
        """As after a new document; what it says does not matter here."""
        for callback in self._subscribers:
            callback(self._current)


@pytest.mark.parametrize("service", CONFIGS)
async def test_no_service_keeps_what_it_read_of_its_configuration(
    service: str, postgres: Postgres, etcd: EtcdServer, nats: NatsServer, tmp_path: Path
) -> None:
    environment = {
        "SHOPMESH_DATABASE_URL": await postgres.make(f"services.{service}"),
        "SHOPMESH_ETCD": etcd.endpoint,
        "SHOPMESH_NATS_URL": nats.url,
        "SHOPMESH_STATE_DIR": str(tmp_path),
    }
    wire: Callable[[Process[Any]], Awaitable[None]] = import_module(f"services.{service}.__main__").wire
    async with AsyncExitStack() as held, asyncio.TaskGroup() as tasks:
        process = Process[Any](Settings.read(service, environment), CONFIGS[service], held, tasks)
        readings = Readings()
        process.config = watched = WatchedConfig(process.config, readings)

        await wire(process)
        assert readings.by_task.get(asyncio.current_task(), set()) == set(), "copied at start"

        async def read_by_loops() -> bool:
            return LOOPS.get(service, set()) <= {name for names in readings.by_task.values() for name in names}

        async def read_again() -> bool:
            return all(readings.by_task.get(task, set()) >= names for task, names in before.items())

        await eventually(read_by_loops, "the loops have begun")
        before, readings.by_task = readings.by_task, {}
        watched.change()
        await eventually(read_again, f"what was read in the background is read again: {before}")
        for task in process._running:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*process._running)


def fields(message: Any) -> Iterator[FieldDescriptor]:
    for each in message.fields:
        yield each
        inner = each.message_type
        if inner is not None and not inner.full_name.startswith("google.protobuf."):
            yield from fields(inner)


def read_in(folder: str) -> set[str]:
    """Every name behind a dot in the code of a package."""
    (root,) = services.__path__
    trees = (ast.parse(file.read_text()) for file in Path(root, folder).rglob("*.py"))
    return {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("service", CONFIGS)
def test_every_field_is_read(service: str) -> None:
    names = {field.name for field in fields(CONFIGS[service].DESCRIPTOR)}

    assert names - read_in(service) - read_in("chassis") == set()


SECRETIVE = ("password", "passwd", "secret", "token", "credential", "private", "key", "dsn", "url", "certificate")


@pytest.mark.parametrize("message", [*CONFIGS.values(), config_pb2.ProcessConfig, policy_pb2.Policy])
def test_no_field_could_be_a_secret(message: type[Message]) -> None:
    """Etcd shows what it has to whoever reads it, for ever in its history: secrets are files, named by SHOPMESH_*."""
    for each in fields(message.DESCRIPTOR):
        assert each.type != each.TYPE_BYTES, each.full_name
        if each.full_name != "mesh.v1.Policy.RpcsEntry.key":
            assert not [word for word in SECRETIVE if word in each.name.split("_")], each.full_name
