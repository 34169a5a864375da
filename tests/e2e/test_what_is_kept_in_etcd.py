"""etcd/README.md against what a running shop keeps there."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from services.cli.settings import SERVICES
from services.files import resource
from tests.support.etcd import Kept, listed
from tests.support.shop import Shop
from tests.support.waiting import eventually

CONTRACTS = descriptor_pool.DescriptorPool()
for file in descriptor_pb2.FileDescriptorSet.FromString(resource("gen/descriptors.binpb").read_bytes()).file:
    CONTRACTS.Add(file)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table of keys."""

    key: re.Pattern[str]
    message: str
    """Its full name, with `<service>` in it; empty for what is no message."""
    leased: bool

    def shows(self, entry: Kept) -> None:
        """Raises unless the entry is what the row says."""
        found = self.key.fullmatch(entry.key)
        assert found
        assert entry.leased == self.leased, entry.key
        if self.message:
            service = found.groupdict().get("service", "")
            name = self.message.replace("<service>", service).replace("<Service>", service.capitalize())
            message = message_factory.GetMessageClass(CONTRACTS.FindMessageTypeByName(name))
            json_format.Parse(entry.value, message())


def rows() -> list[Row]:
    table = re.findall(r"^\| `(/shop/.+?)` \| `(.+?)`(.*?) \|", resource("etcd/README.md").read_text(), re.MULTILINE)
    return [
        Row(
            re.compile(re.sub(r"<([a-z|]+)>", _named, key.replace("\\|", "|"))),
            "" if message == "{}" else message,
            "lease" in about,
        )
        for key, message, about in table
    ]


def _named(part: re.Match[str]) -> str:
    """`<service>` is one segment of a key, `<config|policy>` one of these words."""
    return f"({part[1]})" if "|" in part[1] else f"(?P<{part[1]}>[^/]+)"


def entries(shop: Shop) -> list[Kept]:
    return listed(f"127.0.0.1:{shop.ports['etcd']}", "/")


@pytest.fixture
async def kept(shop: Shop) -> AsyncIterator[Sequence[Kept]]:
    """All that is in etcd after an operator has changed something."""
    shop.command("policy", "set", "notification", "retries.mesh=1")
    shop.command("config", "set", "notification", "default_page_size=10")

    async def reported() -> bool:
        reports = {entry.key.split("/")[3] for entry in entries(shop) if entry.key.startswith("/shop/status/")}
        return reports >= {*SERVICES, "controlplane"}

    try:
        await eventually(reported, "everybody has told what it goes by")
        yield entries(shop)
    finally:
        shop.command("policy", "unset", "notification")
        shop.command("config", "unset", "notification")


async def test_every_key_stands_in_the_readme_and_every_row_is_true(kept: Sequence[Kept]) -> None:
    table = rows()

    for entry in kept:
        (row,) = [row for row in table if row.key.fullmatch(entry.key)] or pytest.fail(f"no row for {entry.key}")
        row.shows(entry)
    for row in table:
        assert any(row.key.fullmatch(entry.key) for entry in kept), f"{row.key.pattern}: there is no such key"
