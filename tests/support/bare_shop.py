"""A shop of real processes without its command, on a mesh of their own: two instances of each service but Product.

Every part can be killed, frozen and started again where it was, and a test can hold the wires in between. Holds live
for 10 s and leases for 3 s, so that what a lost process had in hand is taken over while a test waits.
"""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import override
from uuid import UUID, uuid4

import asyncpg
import grpc
from google.type.money_pb2 import Money
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.order.v1 import order_pb2, order_pb2_grpc
from shop.product.v1 import product_pb2, product_pb2_grpc

from services.chassis.etcd import Etcd
from services.cli.local.postgres import Postgres as LocalPostgres
from services.cli.local.stack import NATS_CONFIG
from services.cli.settings import SERVICES
from tests.support.mesh import Mesh, running_mesh
from tests.support.nats import NatsServer
from tests.support.postgres import Postgres
from tests.support.proxy import Proxy, proxy_to
from tests.support.servers import BIN, Server
from tests.support.serving import Metadata, ServiceProcess, bearing
from tests.support.smtp_sink import SmtpSink
from tests.support.steady import OPTIONS
from tests.support.waiting import eventually

type Request = tuple[str, str]
"""Customer and request_id."""

PENDING = {"inventory_away": "INVENTORY_AWAY_PENDING_STOCK"}
"""Orders are accepted while Inventory is away."""
HOLD_TTL_S = 10
LEASE_S = 3
CONFIG: Mapping[str, Mapping[str, str]] = {
    "order": {"hold_ttl": f"{HOLD_TTL_S}s"},
    "inventory": {"reap_interval": "0.2s"},
    # Shorter than the lease, as the sender has it with the default.
    "notification": {"smtp_timeout": "2s", "mail_backoff_initial": "0.1s", "mail_backoff_max": "1s"},
}
# What is claimed is due after LEASE_S at the latest: as if time went by faster.
_SHORT_LEASES = f"""
create or replace function short_lease() returns trigger language plpgsql as $$ begin
  new.%(column)s := least(new.%(column)s, now() + interval '{LEASE_S} s');
  return new;
end $$;
create or replace trigger short_lease before update on %(table)s for each row when (%(claimed)s)
  execute function short_lease()"""
_LEASES = (
    ("order", "orders", "claimed_until", "new.settled_time is null"),
    ("order", "order_events", "claimed_until", "new.sent_time is null"),
    ("notification", "notifications", "claimable_time", "new.state = 'SENDING'"),
)


class _Nats(NatsServer):
    """As a local shop has it: what it has acknowledged is on the disk."""

    @override
    def command(self) -> Sequence[str | Path]:
        config = self.folder / "nats.conf"
        config.write_text(NATS_CONFIG.substitute(host="127.0.0.1", port=self.port, folder=self.folder / "data"))
        return [BIN / "nats-server", "-c", config]


@dataclass(slots=True)
class Wires:
    """What an instance talks over: each of them passes what a test does not hold."""

    database: Proxy
    nats: Proxy
    mesh: Proxy
    smtp: Proxy

    @property
    def all(self) -> Sequence[Proxy]:
        return self.database, self.nats, self.mesh, self.smtp


class Instance(ServiceProcess):
    """A process of a service. Started again it has its name, its address and its wires."""

    def __init__(self, name: str, service: str, folder: Path, wires: Wires | None, **environment: str) -> None:
        super().__init__(service, folder, INSTANCE=name, **environment)
        self.name, self.service, self.wires = name, service, wires


@dataclass(slots=True)
class BareShop:
    """What runs now."""

    folder: Path
    mesh: Mesh
    postgres: Postgres
    nats: _Nats
    sink: SmtpSink
    instances: list[Instance] = field(default_factory=list[Instance])
    acknowledged: dict[Request, UUID] = field(default_factory=dict[Request, UUID])
    """Every request that a customer was given an order for, and that order."""
    _channels: list[grpc.aio.Channel] = field(default_factory=list[grpc.aio.Channel])

    def of(self, service: str) -> list[Instance]:
        return [instance for instance in self.instances if instance.service == service]

    def other_than(self, one: Instance) -> Instance:
        """The other instance of its service."""
        [other] = [each for each in self.of(one.service) if each is not one]
        return other

    @property
    def parts(self) -> Mapping[str, Server]:
        """All that can be killed, by name."""
        stores = {"nats": self.nats, "postgres": self.postgres, "smtp": self.sink}
        mesh = {"envoy": self.mesh.envoy, "controlplane": self.mesh.controlplane}
        return {**{one.name: one for one in self.instances if one.service != "product"}, **stores, **mesh}

    def bearer(self, customer: str) -> Metadata:
        return bearing(self.mesh.issuer.token(customer, ["customer"], exp=_NEVER))

    @property
    def orders(self) -> order_pb2_grpc.OrderServiceStub:
        return order_pb2_grpc.OrderServiceStub(self._channels[0])

    async def stocked(self, pieces: int) -> str:
        """The name of a new product with so many pieces."""
        id, carol = f"thing-{uuid4()}", self.mesh.issuer.token("carol", ["catalog-manager", "inventory-manager"])
        product = product_pb2.Product(display_name="Thing", price=Money(currency_code="EUR", units=5))
        await product_pb2_grpc.ProductServiceStub(self._channels[0]).CreateProduct(
            product_pb2.CreateProductRequest(product_id=id, product=product, request_id=id), metadata=bearing(carol)
        )
        await inventory_pb2_grpc.InventoryServiceStub(self._channels[0]).AdjustStock(
            inventory_pb2.AdjustStockRequest(name=f"products/{id}/stock", delta=pieces, request_id=id),
            metadata=bearing(carol),
        )
        return f"products/{id}"

    async def rows(self, service: str, query: str, *values: object) -> list[asyncpg.Record]:
        """From the database of a service. Raises AssertionError while it does not answer."""
        try:
            connection = await asyncpg.connect(self.postgres.url(service), timeout=5)
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            raise AssertionError(f"the database does not answer: {error}") from error
        try:
            return await connection.fetch(query, *values)
        finally:
            await connection.close()

    async def configure(self, service: str, **fields: str) -> None:
        """CONFIG with these fields beside it, and nothing else, holds for the service; returns when it does."""
        etcd = Etcd(self.mesh.etcd.endpoints)
        try:
            document = {**CONFIG[service], **fields}
            revision = await etcd.put(f"/shop/config/{service}", json.dumps(document).encode())
        finally:
            await etcd.close()

        async def look() -> bool:
            told = await asyncio.to_thread(self.mesh.etcd.entries, f"/shop/status/{service}/")
            documents = [json.loads(status)["documents"][f"config/{service}"] for status in told.values()]
            return [document.get("revision") for document in documents] == [str(revision)] * len(self.of(service))

        await eventually(look, f"{service} goes by its configuration")

    async def healthy(self) -> None:
        """Returns when calls go to all instances."""
        for service in SERVICES:
            await self.mesh.healthy(service, len(self.of(service)))


def order_of(product: str, request_id: str, quantity: int = 1) -> order_pb2.PlaceOrderRequest:
    line = order_pb2.Order.Line(product=product, quantity=quantity)
    return order_pb2.PlaceOrderRequest(order=order_pb2.Order(lines=[line]), request_id=request_id)


_NEVER = 4_000_000_000
"""When the token ends: longer than any fault."""


@asynccontextmanager
async def running_bare_shop(*, wired: bool = False) -> AsyncIterator[BareShop]:
    """Ready to take orders; all of it is gone in the end. `wired`: with wires that can be held."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="shopmesh-test-bare-shop-")))
        mesh = stack.enter_context(running_mesh())
        for name in ("postgres", "nats", "smtp"):
            (folder / name).mkdir()
        postgres = Postgres(folder / "postgres")
        stack.callback(postgres.remove)
        shop = BareShop(folder, mesh, postgres, _Nats(folder / "nats"), SmtpSink(folder / "smtp"))
        for server in (shop.nats, shop.sink):
            stack.callback(server.kill)
        await asyncio.gather(*(asyncio.to_thread(part.start) for part in (postgres, shop.nats, shop.sink)))
        command = LocalPostgres(postgres.folder, as_root=postgres.user is not None).databases_command(postgres.port)
        await asyncio.to_thread(subprocess.run, command, check=True)
        await _lift_limits(mesh)
        for service in SERVICES:
            for number in (1,) if service == "product" else (1, 2):
                shop.instances.append(instance := await _instance(shop, service, number, stack if wired else None))
                stack.callback(instance.kill)
        await asyncio.gather(*(asyncio.to_thread(one.start) for one in shop.instances))
        await asyncio.gather(*map(shop.configure, CONFIG))
        await _shorten_leases(shop)
        shop._channels.append(await stack.enter_async_context(grpc.aio.insecure_channel(mesh.envoy.edge, OPTIONS)))
        await shop.healthy()
        yield shop


async def _instance(shop: BareShop, service: str, number: int, stack: AsyncExitStack | None) -> Instance:
    """With a stack: wired."""
    name = f"{service}-{number}"
    (folder := shop.folder / name).mkdir()
    ports = [shop.postgres.port, shop.nats.port, int(shop.mesh.envoy.mesh.rpartition(":")[2]), shop.sink.port]
    wires = None
    if stack:
        wires = Wires(*[await stack.enter_async_context(proxy_to(port)) for port in ports])
        ports = [wire.port for wire in wires.all]
    database, nats, mesh, smtp = ports
    return Instance(
        name, service, folder, wires,
        # Its name tells a test whose statement waits.
        DATABASE_URL=f"postgresql://{service}@127.0.0.1:{database}/{service}?application_name={name}",
        NATS_URL=f"nats://127.0.0.1:{nats}", MESH=f"127.0.0.1:{mesh}", SMTP_URL=f"smtp://127.0.0.1:{smtp}",
        ETCD=shop.mesh.etcd.endpoints, ISSUER=shop.mesh.issuer.url,
    )  # fmt: skip


async def _lift_limits(mesh: Mesh) -> None:
    unlimited = json.dumps({"rate_limit": {"user": {"calls": 0}, "address": {"calls": 0}}}).encode()
    etcd = Etcd(mesh.etcd.endpoints)
    try:
        for service in SERVICES:
            await etcd.put(f"/shop/policy/{service}", unlimited)
    finally:
        await etcd.close()


async def _shorten_leases(shop: BareShop) -> None:
    for service, table, column, claimed in _LEASES:
        connection = await asyncpg.connect(shop.postgres.url(service))
        try:
            await connection.execute(_SHORT_LEASES % {"table": table, "column": column, "claimed": claimed})
        finally:
            await connection.close()
