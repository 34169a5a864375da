"""What the guarantees cost: beside the version before them, with a million stored orders, while events wait.

`python -m bench.truth [FILE]` measures this alone, and writes the figures to FILE. The version before comes from git
and runs in the same environment at the same time; loads take turns.
"""

import argparse
import asyncio
import itertools
import json
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import asyncpg

from bench import contenders, costs, report
from bench.contenders import Product
from bench.load import Order, percentile
from services.cli.identity import access_token
from services.cli.places import token_url
from tests.support.shop import Shop

BEFORE = "f637c2b"
"""The commit before orders could wait for stock, be watched, audited and sent again."""
ROOT = Path(__file__).parents[1]
ORDERS, EVENTS, ROUNDS, SECONDS = 1_000_000, 100_000, 3, 5.0
DRAINED_WITHIN_S = 1800.0

# Orders that are long over, in all tables; `filled` has their ids. A shop full of them passes its audit.
_FILL = {
    "order": """
insert into orders (id, customer, request_id, email, state, version, lines, total_currency, total_units, total_nanos,
  create_time, update_time, settled_time)
select id, 'c-' || n % 50000, n, 'c@example.com', 'PLACED', 1,
  '[{"product": "p-000", "display_name": "Product number p-000", "quantity": 1, "units": 1, "nanos": 990000000}]',
  'EUR', 1, 990000000, past, past, past from filled;
insert into order_events
  (order_id, version, type, event_id, payload, create_time, claimed_until, sent_time, attempts)
select id, 1, type, filled.event_id,
  overlay(payload placing convert_to(id::text, 'UTF8') from position(convert_to(order_id::text, 'UTF8') in payload)),
  past, past + interval '10 s', past, 1
from filled, (select * from order_events where type = 'shop.order.v1.OrderPlaced' limit 1) as one""",
    "inventory": """
insert into reservations (id, state, products, quantities, expire_time, create_time, update_time)
select id, 'CONFIRMED', '{p-000}', '{1}', past, past, past from filled;
insert into ledger (reservation_id, product, kind, on_hand_delta, reserved_delta, create_time)
select id, 'p-000', kind, on_hand, reserved, past
from filled, (values ('HELD', 0, 1), ('CONFIRMED', -1, -1)) as moved (kind, on_hand, reserved);
insert into ledger (product, kind, on_hand_delta, reserved_delta)
select 'p-000', 'ADJUSTED', count(*), 0 from filled""",
    "notification": """
insert into notifications (id, order_id, kind, version, customer, recipient, subject, body, event_type, event_id, state,
  attempts, first_attempt_time, create_time, send_time)
select gen_random_uuid(), id, 'ORDER_PLACED', 1, 'c-' || n % 50000, 'c@example.com', 'Your order', 'Thank you.',
  'shop.order.v1.OrderPlaced', event_id, 'SENT', 1, past, past, past from filled""",
}
# Notification knows them already, so no mail is sent: what is measured is events.
_WAIT = """
update order_events set sent_time = null, resends = resends + 1, claimed_until = create_time, unsent_time = now()
where (order_id, version) in (select order_id, version from order_events where sent_time is not null limit {events})"""

type Found = dict[str, Any]


class UnderLoad:
    """A shop, and what is asked of it."""

    def __init__(self, name: str, held: ExitStack, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.shop: Shop = contenders.stocked_shop(held, folder / name, environment)
        self.contender = Product(self.shop, 100)
        self._issuer = contenders.issuer_of(self.shop)
        self._orders = 0

    def load(self, call: str, concurrency: int, seconds: float = SECONDS, *, drained: bool = True) -> Found:
        """Of one rpc, with all that it causes, and CPU seconds by process. Raises RuntimeError when a call failed."""
        tokens = [access_token(token_url(self._issuer), user) for user in ("ann", "bob")]
        pids = self.contender.pids()
        ((begun,),) = self.ask("order", "select now()::text")
        before = costs.cpu_seconds(pids)
        found = Order(self.contender.calls[call], tokens, concurrency, 1.0, seconds).sent()
        if call == "PlaceOrder":
            self._orders += found["calls"]
            if drained:
                self._drain(found["calls"], begun)
        after = costs.cpu_seconds(pids)
        row = {
            "shop": self.name, "call": call, "concurrency": concurrency, **found,
            "cpu": {role: after[role] - before[role] for role in pids}, "outside": [*self.contender.outside],
        }  # fmt: skip
        print(f"  {self.name:6} {call:10} c={concurrency:<3} {row['per_second']:5.0f}/s  p50 {row['p50']:6.1f} ms"
              f"  p99 {row['p99']:6.1f} ms  CPU s/1000: {report.everything(row):.2f}", flush=True)  # fmt: skip
        return row

    def _drain(self, orders: int, since: str) -> None:
        """Waits until all that so many orders since then have caused is done; without a look at all that is stored."""
        until = time.monotonic() + DRAINED_WITHIN_S
        while True:
            ((unsettled, unsent),) = self.ask(
                "order",
                "select (select count(*) from audit_orders where settled_time is null), (select count(*) from"
                " audit_order_events where sent_time is null and type is not null)",
            )
            ((mails,),) = self.ask(
                "notification",
                f"select count(*) from audit_notifications where state = 'SENT' and create_time >= '{since}'",
            )
            if not unsettled and not unsent and mails >= orders:
                return
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name}: {unsettled} unsettled, {unsent} unsent, {mails} of {orders} mails")
            time.sleep(0.25)

    def check(self) -> None:
        """Raises AssertionError unless all tables agree."""
        self.contender.check(self._orders)

    def ask(self, service: str, question: str) -> list[Any]:
        """As the role audit."""
        return contenders.query(self.shop.database(service), question)

    def owners(self, service: str) -> str:
        """Address of a database, for who owns the tables."""
        return self.shop.database(service).replace("audit@", f"{service}@")


def measure(orders: int = ORDERS, events: int = EVENTS, rounds: int = ROUNDS) -> Found:
    """All of it; shops that are no longer needed are gone before the next figure is taken."""
    folder = Path(tempfile.mkdtemp(prefix="shopmesh-bench-truth-"))
    folder.chmod(0o755)
    found: Found = {"orders": orders}
    try:
        with ExitStack() as held:
            now = UnderLoad("now", held, folder)
            with ExitStack() as meanwhile:
                before = UnderLoad("before", meanwhile, folder, meanwhile.enter_context(_version(BEFORE, folder)))
                found["beside"] = _in_turn((before, now), ("PlaceOrder",), rounds)
                found["statements_ms"] = {shop.name: _statement_times(shop) for shop in (before, now)}
            found["mails"] = [_until_mailed(now, concurrency) for concurrency in (1, 16)]
            with ExitStack() as meanwhile:
                empty = UnderLoad("empty", meanwhile, folder)
                _in_turn((empty,), ("PlaceOrder",), 1)  # a page of orders for each customer who is asked about
                found["fill_s"] = _fill(now, orders)
                for shop in (empty, now):  # or the one that was filled would write it all to the disk meanwhile
                    contenders.query(shop.contender.postgres()[0] + "postgres", "checkpoint")
                found["stored"] = _in_turn((empty, now), ("ListOrders", "PlaceOrder"), rounds)
            found["audit"] = _audit(now)
            found["drain"] = _drain(now, events, rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


@contextmanager
def _version(commit: str, folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which `python -m services.cli` is that version."""
    tree = folder / commit
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
    try:
        # Before the folder in which it is called, and before what is installed.
        yield {"PYTHONSAFEPATH": "1", "PYTHONPATH": f"{tree}:{tree / 'gen' / 'python'}"}
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def _in_turn(shops: tuple[UnderLoad, ...], calls: tuple[str, ...], rounds: int) -> list[Found]:
    """At concurrency 16; who begins changes from round to round. A first load of each is nobody's figure."""
    for shop in shops:
        for call in calls:
            shop.load(call, 16, 2)
    return [
        {**shop.load(call, 16), "round": number}
        for number in range(rounds)
        for call in calls
        for shop in shops[:: 1 if number % 2 else -1]
    ]


# The version before kept the line as PostgreSQL had written it.
_TOOK = re.compile(r"(?:\[\d+\] (?P<database>\S+) LOG:  )?duration: (?P<ms>[\d.]+) ms")


def _statement_times(shop: UnderLoad) -> dict[str, float]:
    """Milliseconds that PostgreSQL took for an order with all its work, by database, from its log; one at a time."""
    server, log = shop.contender.postgres()

    def set_to(setting: str) -> None:
        for statement in (
            "alter role audit set log_min_duration_statement = -1",  # our own questions
            "alter system set log_parameter_max_length = 0",
            f"alter system set log_min_duration_statement = {setting}",
        ):
            contenders.query(f"{server}postgres", statement)
        contenders.query(f"{server}postgres", "select pg_reload_conf()")

    set_to("0")
    try:
        time.sleep(0.5)  # the server's processes read their settings one after the other
        start = log.stat().st_size
        calls = shop.load("PlaceOrder", 1, 3)["calls"]
        time.sleep(0.5)  # the log is written through a pipe
        text = log.read_bytes()[start:].decode()
    finally:
        set_to("-1")
    shop.check()
    took = defaultdict[str, float](float)
    for line in map(json.loads, text.splitlines()):
        if found := _TOOK.match(line["message"]):
            took[found["database"] or line["database"]] += float(found["ms"]) / calls
    if not took:
        raise RuntimeError("PostgreSQL has logged no statement: no figure counts")
    return took


def _until_mailed(shop: UnderLoad, concurrency: int) -> Found:
    """From the commit of an order until the mail server had its mail, by the clock of the database."""
    ((begun,),) = shop.ask("order", "select now()::text")
    shop.load("PlaceOrder", concurrency)
    said = shop.ask("order", f"select order_id, create_time from audit_order_events where create_time > '{begun}'")
    sent = dict(shop.ask("notification", "select order_id, send_time from audit_notifications"))
    took = sorted((sent[order] - placed).total_seconds() for order, placed in said)
    return {"concurrency": concurrency, "p50": percentile(took, 0.5), "p99": percentile(took, 0.99), "mails": len(took)}


def _fill(shop: UnderLoad, orders: int) -> float:
    """Seconds that it took to store so many orders of others."""
    begun = time.monotonic()
    ids = [UUID(int=random.getrandbits(128), version=4) for _ in range(orders)]
    rows = [(number, id, uuid5(id, "1")) for number, id in enumerate(ids)]

    async def fill() -> None:
        for service, statement in _FILL.items():
            connection = await asyncpg.connect(shop.owners(service))
            await connection.execute("create unlogged table filled (n int, id uuid, event_id uuid)")
            await connection.copy_records_to_table("filled", records=rows)
            await connection.execute("alter table filled add past timestamptz default now() - interval '40 days'")
            await connection.execute(statement)
            await connection.execute("drop table filled")
            await connection.execute("vacuum analyze")
            await connection.close()

    asyncio.run(fill())
    took = time.monotonic() - begun
    print(f"  {orders} orders were stored in {took:.0f} s", flush=True)
    return took


def _audit(shop: UnderLoad) -> Found:
    begun = time.monotonic()
    said = shop.shop.command("audit", "--all", check=False, deadline_s=DRAINED_WITHIN_S)
    took_s, lines = time.monotonic() - begun, said.strip().splitlines()
    print("\n    ".join([f"  audit --all: {took_s:.0f} s", *lines]), flush=True)
    return {"took_s": took_s, "said": lines}


def _drain(shop: UnderLoad, events: int, rounds: int) -> Found:
    """PlaceOrder with nothing waiting, before and after, and while so many events do."""

    def unsent() -> int:
        ((left,),) = shop.ask(
            "order", "select count(*) from audit_order_events where sent_time is null and type is not null"
        )
        return int(left)

    def quiet() -> list[Found]:
        return [shop.load("PlaceOrder", concurrency) for _ in range(rounds) for concurrency in (1, 16)]

    before, beside = quiet(), list[Found]()
    contenders.query(shop.owners("order"), _WAIT.format(events=events))
    begun = time.monotonic()
    for concurrency in itertools.cycle((1, 16)):
        row = shop.load("PlaceOrder", concurrency, drained=False)
        if unsent() < 1000:  # a part of it was measured with nothing waiting
            break
        beside.append(row)
    took_s = time.monotonic() - begun
    shop.load("PlaceOrder", 1, 1)  # until nothing waits any more
    return {"quiet": before + quiet(), "beside": beside, "took_s": took_s, "events": events}


def main() -> None:
    """Measures, tells, and leaves nothing running."""
    parser = argparse.ArgumentParser(prog="python -m bench.truth", description="Measure what the guarantees cost.")
    parser.add_argument("--orders", type=int, default=ORDERS, help="that are stored")
    parser.add_argument("--events", type=int, default=EVENTS, help="that wait")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("file", type=Path, nargs="?")
    options = parser.parse_args()
    found = measure(options.orders, options.events, options.rounds)
    if options.file:
        options.file.write_text(json.dumps({"truth": found}, indent=1))
    print(report.truth(found))


if __name__ == "__main__":
    main()
