"""Who is measured: the shop, and two peers that do the same work with nothing around it, or in another way.

Each says what its processes are, how it is called, what of the asynchronous work is left, and whether its tables agree.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import grpc
import grpc.aio
import httpx
from google.type import money_pb2
from shop.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from shop.product.v1 import product_pb2, product_pb2_grpc
from tenacity import AsyncRetrying, stop_after_attempt, wait_fixed

from bench.load import PRODUCTS, Call
from bench.peers import envoy
from bench.report import SERVICES
from services.chassis.etcd import Etcd
from services.cli.identity import access_token
from services.cli.local.tether import die_with_parent
from services.cli.places import token_url
from services.cli.settings import HOST
from services.files import resource
from tests.support.limits import lift_limits
from tests.support.ports import free_port
from tests.support.shop import Shop, running_shop

PEERS = Path(__file__).parent / "peers"
PIECES = 1_000_000
DRAINED_WITHIN_S = 180.0

PLACE_ORDER = """{"requestId": "{id}", "order": {"lines": [
 {"product": "products/{product}", "quantity": {quantity}}, {"product": "products/{other}", "quantity": 1}]}}"""
GET_PRODUCT = '{"name": "products/{product}"}'
PEERS_ORDER = """{"request_id": "{id}", "customer": "ann", "lines": [
 {"product": "{product}", "quantity": {quantity}}, {"product": "{other}", "quantity": 1}]}"""
PEERS_PRODUCT = '{"id": "{product}"}'


class Contender(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def tables(self) -> str:
        """Contenders that share their tables say the same."""
        ...

    @property
    def calls(self) -> Mapping[str, Call]:
        """PlaceOrder, GetProduct and, of the shop, ListOrders."""
        ...

    @property
    def outside(self) -> frozenset[str]:
        """Roles that stand for something outside of it: shown, and not counted."""
        ...

    def pids(self) -> Mapping[str, int]:
        """Process id by role; SERVICES and whatever stands under them."""
        ...

    def ready(self) -> None:
        """Sets it up for its next measurement."""
        ...

    def left(self) -> int:
        """How much of the asynchronous work is not done."""
        ...

    def check(self, orders: int) -> None:
        """Raises AssertionError unless the tables agree with one another and with so many placed orders."""
        ...

    def postgres(self) -> tuple[str, Path]:
        """Its server: an address of its superuser without a database, and the log."""
        ...


def calls_of_the_shop(edge: str) -> dict[str, Call]:
    """What the generator sends to the shop."""
    descriptors = str(resource("gen/descriptors.binpb"))
    return {
        "PlaceOrder": Call(edge, "shop.order.v1.OrderService/PlaceOrder", PLACE_ORDER, descriptors),
        "GetProduct": Call(edge, "shop.product.v1.ProductService/GetProduct", GET_PRODUCT, descriptors),
        "ListOrders": Call(edge, "shop.order.v1.OrderService/ListOrders", "{}", descriptors),
    }


@dataclass(frozen=True, slots=True)
class Product:
    """The shop as `shopmesh up` runs it, with a share of traces sampled."""

    shop: Shop
    sampling_percent: int
    outside: frozenset[str] = frozenset({"mailbox"})
    tables: str = "shop"

    @property
    def name(self) -> str:
        return f"shop-{self.sampling_percent}"

    @property
    def calls(self) -> Mapping[str, Call]:
        return calls_of_the_shop(self.shop.edge)

    def pids(self) -> Mapping[str, int]:
        return {name: part["pid"] for name, part in self.shop.parts().items()}

    def ready(self) -> None:
        asyncio.run(sample(self.shop, self.sampling_percent))

    def left(self) -> int:
        ((unsettled, unsent),) = self._ask(
            "order",
            "select (select count(*) from audit_orders where settled_time is null),"
            " (select count(*) from audit_order_events where type is not null and sent_time is null)",
        )
        ((orders,),) = self._ask("order", "select count(*) from audit_orders")
        ((mails,),) = self._ask("notification", "select count(*) from audit_notifications where state = 'SENT'")
        return int(unsettled + unsent + orders - mails)

    def check(self, orders: int) -> None:
        ((placed, events),) = self._ask(
            "order",
            "select (select count(*) from audit_orders where state = 'PLACED' and settled_time is not null),"
            " (select count(*) from audit_order_events where sent_time is not null)",
        )
        ((confirmed, held),) = self._ask(
            "inventory",
            "select count(*) filter (where state = 'CONFIRMED'), count(*) filter (where state = 'HELD')"
            " from audit_reservations",
        )
        ((wrong,),) = self._ask(
            "inventory",
            "select count(*) from audit_stock left join (select product, sum(on_hand_delta) as on_hand,"
            " sum(reserved_delta) as reserved from audit_ledger group by product) as sums using (product)"
            " where audit_stock.on_hand <> sums.on_hand or audit_stock.reserved <> sums.reserved"
            " or audit_stock.reserved <> 0",
        )
        ((mails, told),) = self._ask(
            "notification",
            "select count(*) filter (where state = 'SENT'), count(distinct order_id) from audit_notifications",
        )
        found = {"placed": placed, "events": events, "confirmed": confirmed, "mails": mails, "told": told}
        assert set(found.values()) == {orders}, f"{orders} orders, but {found}"
        assert (held, wrong) == (0, 0), f"{held} holds are left, {wrong} products' ledgers do not add up"

    def postgres(self) -> tuple[str, Path]:
        return (
            f"postgresql://postgres@{HOST}:{self.shop.ports['postgres']}/",
            self.shop.state / "logs" / "postgres.jsonl",
        )

    def _ask(self, service: str, question: str) -> list[Any]:
        return query(self.shop.database(service), question)


@dataclass(slots=True)
class Peer:
    """Four processes that do what an order needs, over stores of a stack of its own that stays away from the shop's."""

    name: str
    stores: Shop
    issuer: str
    state: Path
    outside: frozenset[str] = frozenset()
    calls: Mapping[str, Call] = field(default_factory=dict)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def prepare(self) -> None:
        """Fresh tables, 200 products with much stock."""
        parts = re.split(r"^-- database: (\w+)$", (PEERS / "schema.sql").read_text(), flags=re.MULTILINE)[1:]
        for name, tables in zip(parts[::2], parts[1::2], strict=True):
            query(self._server + "postgres", f"drop database if exists {name}")
            query(self._server + "postgres", f"create database {name}")
            query(self._server + name, tables)

    def start_floor(self) -> None:
        """grpc.aio, asyncpg and nats-py behind an Envoy of its own that checks tokens: the least that does the work."""
        ports = {role: free_port() for role in SERVICES}
        edge, inner = free_port(), free_port()
        routes = {f"/bench.v1.{role.capitalize()}Service/": ports[role] for role in SERVICES}
        file = self.state / "envoy.json"
        file.write_text(envoy.config(edge, inner, key_set(self.issuer), self.issuer, routes))
        program = Path(sysconfig.get_path("platlib")) / "envoy/_bin/envoy"
        self._start("envoy", (str(program), "-c", str(file), "--disable-hot-restart", "-l", "warn"), {})
        descriptors = self.state / "floor.binpb"
        subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", "-I", PEERS, "--include_imports", f"--python_out={self.state}",
             f"--grpc_python_out={self.state}", f"--descriptor_set_out={descriptors}", "floor.proto"],
            check=True,
        )  # fmt: skip
        for role in SERVICES:
            others = {"BENCH_PRODUCT": f"{HOST}:{inner}", "BENCH_INVENTORY": f"{HOST}:{inner}"}
            command = (sys.executable, str(PEERS / "floor_shop.py"), role)
            self._start(role, command, {**others, "PYTHONPATH": str(self.state)}, ports[role])
        at = f"{HOST}:{edge}"
        self.calls = {
            "PlaceOrder": Call(at, "bench.v1.OrderService/PlaceOrder", PEERS_ORDER, str(descriptors)),
            "GetProduct": Call(at, "bench.v1.ProductService/GetProduct", PEERS_PRODUCT, str(descriptors)),
        }

    def start_fastapi(self, python: Path) -> None:
        """What many teams would write: FastAPI, SQLAlchemy and httpx, without a mesh; each service checks the token."""
        ports = {role: free_port() for role in SERVICES}
        for role in SERVICES:
            others = {"BENCH_PRODUCT": f"{HOST}:{ports['product']}", "BENCH_INVENTORY": f"{HOST}:{ports['inventory']}"}
            tokens = {"BENCH_JWKS": key_set(self.issuer), "BENCH_ISSUER": self.issuer}
            command = (str(python), str(PEERS / "fastapi_shop.py"), role)
            self._start(role, command, {**others, **tokens}, ports[role])
        self.calls = {
            "PlaceOrder": Call(f"{HOST}:{ports['order']}", "POST /orders", PEERS_ORDER),
            "GetProduct": Call(f"{HOST}:{ports['product']}", "GET /products/{product}", ""),
        }

    @property
    def tables(self) -> str:
        return self.name

    def pids(self) -> Mapping[str, int]:
        stores = {name: part["pid"] for name, part in self.stores.parts().items()}
        return {**{role: process.pid for role, process in self._processes.items()}, **stores}

    def ready(self) -> None:
        if ended := [role for role, process in self._processes.items() if process.poll() is not None]:
            raise RuntimeError(f"{self.name}: {ended} ended, see {self.state}")

    def left(self) -> int:
        ((unsettled, unsent, orders),) = self._ask(
            "orders",
            "select (select count(*) from orders where state = 'placed'),"
            " (select count(*) from outbox where sent_time is null), (select count(*) from orders)",
        )
        ((told,),) = self._ask("notification", "select count(*) from notifications")
        return int(unsettled + unsent + orders - told)

    def check(self, orders: int) -> None:
        ((settled, history, sent),) = self._ask(
            "orders",
            "select (select count(*) from orders where state = 'confirmed'),"
            " (select count(*) from order_history), (select count(*) from outbox where sent_time is not null)",
        )
        ((confirmed, held, ledger, wrong),) = self._ask(
            "inventory",
            "select (select count(*) from reservations where state = 'confirmed'),"
            " (select count(*) from reservations where state = 'held'), (select count(*) from ledger),"
            " (select count(*) from stock left join (select product, sum(on_hand_delta) as h, sum(reserved_delta) as r"
            " from ledger group by product) as sums using (product)"
            " where on_hand <> 1000000000 + coalesce(h, 0) or reserved <> coalesce(r, 0) or reserved <> 0)",
        )
        ((told,),) = self._ask("notification", "select count(*) from notifications")
        found = {"settled": settled, "sent": sent, "confirmed": confirmed, "told": told}
        assert set(found.values()) == {orders}, f"{orders} orders, but {found}"
        assert (history, ledger) == (2 * orders, 4 * orders), f"{history} rows of history, {ledger} of the ledger"
        assert (held, wrong) == (0, 0), f"{held} holds are left, {wrong} products' ledgers do not add up"

    def postgres(self) -> tuple[str, Path]:
        return self._server, self.stores.state / "logs" / "postgres.jsonl"

    def stop(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            process.wait(10)

    @property
    def _server(self) -> str:
        return f"postgresql://postgres@{HOST}:{self.stores.ports['postgres']}/"

    def _start(self, role: str, command: Sequence[str], own: Mapping[str, str], port: int = 0) -> None:
        environment = {
            **os.environ,
            "BENCH_POSTGRES": self._server,
            "BENCH_NATS": f"nats://{HOST}:{self.stores.ports['nats']}",
            "BENCH_LISTEN": f"{HOST}:{port}",
            **own,
        }
        parent = os.getpid()
        with (self.state / f"{role}.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment,
                preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),  # noqa: PLW1509  before any thread
            )  # fmt: skip
        self._processes[role] = process
        until = time.monotonic() + 30
        while port and not _listens(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self.name}: {role} does not listen, see {log.name}")
            time.sleep(0.05)

    def _ask(self, database: str, question: str) -> list[Any]:
        return query(self._server + database, question)


def drain(contender: Contender) -> None:
    """Waits until everything that the orders caused is done."""
    until = time.monotonic() + DRAINED_WITHIN_S
    while left := contender.left():
        if time.monotonic() > until:
            raise RuntimeError(f"{contender.name}: {left} orders are not done after {DRAINED_WITHIN_S:.0f} s")
        time.sleep(0.25)


def stocked_shop(
    held: ExitStack, state: Path, environment: Mapping[str, str] | None = None, *, own_store: bool = False
) -> Shop:
    """A shop with its products in stock and without limits, its spans going to a sink, or to its own store."""
    to_sink = {} if own_store else {"SHOPMESH_OTLP_ENDPOINT": _sink(held)}
    shop: Shop = held.enter_context(
        running_shop(state, "--no-demo-data", environment={**to_sink, **(environment or {})})
    )
    asyncio.run(lift_limits(shop))  # two customers send all orders
    asyncio.run(stock_up(shop, access_token(token_url(issuer_of(shop)), "carol")))
    return shop


def _sink(held: ExitStack) -> str:
    sink = held.enter_context(subprocess.Popen([sys.executable, "-m", "bench.sink"], stdout=subprocess.PIPE, text=True))
    held.callback(sink.terminate)
    assert sink.stdout is not None
    return f"http://127.0.0.1:{int(sink.stdout.readline())}"


def query(address: str, statement: str) -> list[Any]:
    """What one statement (or, without an answer, several) says."""

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(address)
        try:
            if statement.startswith("select"):
                return await connection.fetch(statement)
            await connection.execute(statement)
        finally:
            await connection.close()
        return []

    return asyncio.run(ask())


def issuer_of(shop: Shop) -> str:
    """Who signs the tokens of all contenders."""
    return f"http://localhost:{shop.ports['keycloak']}/realms/shop"


def key_set(issuer: str) -> str:
    """The keys that Keycloak signs with: the peers check its tokens too."""
    return httpx.get(f"{issuer}/protocol/openid-connect/certs", trust_env=False).raise_for_status().text


async def sample(shop: Shop, percent: int) -> None:
    """Lets the edge and the services record this share of traces."""
    document = f'{{"process": {{"sampling_percent": {percent}}}}}'.encode()
    etcd = Etcd(f"{HOST}:{shop.ports['etcd']}")
    for service in SERVICES:
        await etcd.put(f"/shop/config/{service}", document)
    await etcd.close()
    await asyncio.sleep(1)  # nobody tells when the last of Envoy's threads has it


async def stock_up(shop: Shop, token: str) -> None:
    """The products that the generator buys, through the shop's own rpcs."""
    metadata = (("authorization", f"Bearer {token}"),)
    async with grpc.aio.insecure_channel(shop.edge) as channel:
        catalogue = product_pb2_grpc.ProductServiceStub(channel)
        warehouse = inventory_pb2_grpc.InventoryServiceStub(channel)

        async def add(id: str, units: int) -> None:
            price = money_pb2.Money(currency_code="EUR", units=units, nanos=990_000_000)
            product = product_pb2.Product(display_name=f"Product number {id}", price=price)
            await catalogue.CreateProduct(
                product_pb2.CreateProductRequest(product_id=id, product=product, request_id=id), metadata=metadata
            )
            await warehouse.AdjustStock(
                inventory_pb2.AdjustStockRequest(name=f"products/{id}/stock", delta=PIECES, request_id=id),
                metadata=metadata,
            )

        for number in range(PRODUCTS):
            async for attempt in AsyncRetrying(stop=stop_after_attempt(10), wait=wait_fixed(0.5)):
                with attempt:  # a busy machine may be too slow for the mesh's time limits
                    await add(f"p-{number:03}", 1 + number % 90)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), 1):
            return True
    except OSError:
        return False
