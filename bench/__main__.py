"""Measures the shop beside its peers: `make bench`, or `python -m bench --help`.

All stand side by side and take turns: in a round each contender gets one measurement after the other, so that what
else the machine does meets all of them. Only one of them works at a time; what idles costs nothing to the others.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from bench import contenders, costs, mesh, report, telemetry, truth
from bench.contenders import Contender, Peer, Product
from bench.load import Order
from services.cli.identity import access_token
from services.cli.places import token_url
from tests.support.shop import Shop, running_shop, started_shop, stop

RESULTS = Path(__file__).parent / "results"
CALLS = ("PlaceOrder", "GetProduct")
WARM_UP_S = 3.0
COUNTED_S = 2.0
"""How long statements are counted: from the log, which makes all slower, so not while time is taken."""


@dataclass(slots=True)
class Run:
    """What has been measured so far; written to a file after each step."""

    file: Path
    options: argparse.Namespace
    found: dict[str, Any]
    orders: Counter[str] = field(default_factory=Counter[str])

    def note(self, key: str, value: object) -> None:
        self.found[key] = value
        self.file.write_text(json.dumps(self.found, indent=1))

    def measure(self, contender: Contender, call: str, concurrency: int, number: int, tokens: Sequence[str]) -> None:
        """One load with all the work it made, and what it cost whom."""
        contender.ready()
        pids = contender.pids()
        machine, before, begun = costs.idle_and_total(), costs.cpu_seconds(pids), time.monotonic()
        order = Order(contender.calls[call], tokens, concurrency, self.options.warm, self.options.seconds)
        got = self.load(contender, call, order)
        took_s, after = time.monotonic() - begun, costs.cpu_seconds(pids)
        cpu = {role: after[role] - before[role] for role in pids} | {report.GENERATOR: got.pop("generator_cpu")}
        row = {
            "call": call, "concurrency": concurrency, "round": number, "contender": contender.name, **got, "cpu": cpu,
            "outside": [*contender.outside, report.GENERATOR],
            "others_share": costs.busy_share(machine) - sum(cpu.values()) / took_s / (os.cpu_count() or 1),
        }  # fmt: skip
        self.note("loads", [*self.found["loads"], row])
        print(
            f"  {call:10} c={concurrency:<3} round {number + 1} {contender.name:10} {got['per_second']:7.0f}/s"
            f"  p50 {got['p50']:6.1f} ms  CPU s/1000: services {report.services(row):.3f}"
            f", all {report.everything(row):.3f}  others took {row['others_share']:.0%} of the machine",
            flush=True,
        )

    def load(self, contender: Contender, call: str, order: Order) -> dict[str, Any]:
        """What the generator says, once all that it caused is done and has been checked.

        Raises RuntimeError or AssertionError when a call failed or tables do not agree: then no figure counts.
        """
        got = order.sent()
        ended = time.monotonic()
        if call == "PlaceOrder":
            self.orders[contender.tables] += got["calls"]
            contenders.drain(contender)
            got["drain_s"] = time.monotonic() - ended
            contender.check(self.orders[contender.tables])
        return got

    def count_statements(self, contender: Contender, call: str, tokens: Sequence[str]) -> None:
        """SQL round trips of a call with all its work: what the server's log says was executed."""
        contender.ready()
        server, log = contender.postgres()
        with _logging_statements(server):
            start = log.stat().st_size
            got = self.load(contender, call, Order(contender.calls[call], tokens, 16, 0, COUNTED_S))
            time.sleep(0.5)  # the log is written through a pipe
            text = log.read_bytes()[start:].decode()
        counted = Counter(re.findall(r"\[\d+\] (\S+) LOG:  (?:execute|statement)\b", text))
        row = {
            "contender": contender.name, "call": call, "per_call": sum(counted.values()) / got["calls"],
            "by_database": ", ".join(f"{name} {count / got['calls']:.1f}" for name, count in counted.most_common()),
        }  # fmt: skip
        self.note("round_trips", [*self.found["round_trips"], row])


@contextmanager
def _logging_statements(server: str) -> Iterator[None]:
    def log(which: str) -> None:
        contenders.query(f"{server}postgres", f"alter system set log_statement = {which}")
        contenders.query(f"{server}postgres", "select pg_reload_conf()")

    log("'all'")
    try:
        time.sleep(0.5)  # the server's processes read their settings one after the other
        yield
    finally:
        log("'none'")


def start_times(state: Path, times: int) -> list[float]:
    """Seconds from the command to `shopmesh is ready`, of a shop that has run before."""
    found = []
    for number in range(times + 1):
        begun = time.monotonic()
        with started_shop(state, "--no-demo-data") as shop:
            if number:
                found.append(time.monotonic() - begun)
            stop(shop)
    return found


def main() -> None:
    """Measures, tells, and leaves nothing running."""
    options = _options()
    begun = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    file = options.results or RESULTS / f"{begun:%Y-%m-%dT%H%M%SZ}.json"
    setting = [
        costs.machine() + f", Python {sys.version.split()[0]}",
        f"Spans go to a sink that takes and drops them. Load as ann and bob. {begun:%Y-%m-%d %H:%M} UTC.",
        "The policy of the shop is its seed, but for rate limits: there are none.",
    ]
    run = Run(file, options, {"setting": setting, "starts_s": [], "loads": [], "round_trips": [], "memory_mib": {}})
    print("\n".join(setting), flush=True)
    os.environ.pop("SHOPMESH_STARTED", None)  # a start is measured from its own beginning
    folder = Path(tempfile.mkdtemp(prefix="shopmesh-bench-"))
    folder.chmod(0o755)
    try:
        if options.starts:
            run.note("starts_s", start_times(folder / "shop", options.starts))
        if options.mesh:
            print("the mesh", flush=True)
            run.note("mesh", mesh.measure())
        if options.truth:
            print("what the guarantees cost", flush=True)
            run.note("truth", truth.measure())
        if options.telemetry:
            print("what telemetry costs", flush=True)
            run.note("telemetry", telemetry.measure())
        with ExitStack() as held:
            shop = contenders.stocked_shop(held, folder / "shop")
            issuer = contenders.issuer_of(shop)
            taking_part = [
                Product(shop, report.SHOPS[name])
                if name in report.SHOPS
                else _peer(held, folder, name, issuer, options.fastapi_python)
                for name in options.contenders
            ]
            _take_turns(run, taking_part, lambda: [access_token(token_url(issuer), user) for user in ("ann", "bob")])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n" + report.tell(run.found))
    print(f"\n{file}; it took {(datetime.now(UTC) - begun).total_seconds() / 60:.0f} minutes")


def _peer(held: ExitStack, folder: Path, name: str, issuer: str, python: Path) -> Peer:
    only = ("--only", "postgres", "--only", "nats")
    stores: Shop = held.enter_context(running_shop(folder / f"{name}-stores", *only))
    state = folder / name
    state.mkdir()
    peer = Peer(name, stores, issuer, state)
    held.callback(peer.stop)
    peer.prepare()
    if name == report.FLOOR:
        peer.start_floor()
    else:
        peer.start_fastapi(python)
    return peer


def _take_turns(run: Run, contenders: Sequence[Contender], tokens: Callable[[], Sequence[str]]) -> None:
    options = run.options
    turns = [(call, contender) for call in options.calls for contender in contenders]
    print("warming up", flush=True)
    for call, contender in turns:  # first calls make connections, compile and fill caches: they are nobody's figure
        contender.ready()
        run.load(contender, call, Order(contender.calls[call], tokens(), 16, 0, WARM_UP_S))
    for number, concurrency in product(range(options.rounds), options.concurrency):
        if number == 0 or concurrency == 16:  # no goal stands on the others
            for call, contender in turns:
                run.measure(contender, call, concurrency, number, tokens())
    for contender in contenders:
        run.note("memory_mib", {**run.found["memory_mib"], contender.name: costs.pss_mib(contender.pids())})
    for call, contender in turns if options.count else ():
        run.count_statements(contender, call, tokens())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the shop beside its peers.")

    def words(text: str) -> list[str]:
        return text.split(",")

    known = [*report.SHOPS, report.FLOOR, report.FASTAPI]
    parser.add_argument("--contenders", type=words, default=known, help=f"of {', '.join(known)}")
    parser.add_argument("--calls", type=words, default=list(CALLS))
    parser.add_argument("--concurrency", type=lambda text: [int(word) for word in text.split(",")], default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=3, help="of concurrency 16; the others have one")
    parser.add_argument("--warm", type=float, default=1.0, help="seconds before time is taken")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--starts", type=int, default=5, help="how often the start of the shop is timed")
    parser.add_argument("--no-count", dest="count", action="store_false", help="do not count SQL statements")
    parser.add_argument("--mesh", action="store_true", help="begin with what `python -m bench.mesh` does")
    parser.add_argument("--truth", action="store_true", help="begin with what `python -m bench.truth` does")
    parser.add_argument("--telemetry", action="store_true", help="begin with what `python -m bench.telemetry` does")
    parser.add_argument("--fastapi-python", type=Path, default=Path(".tools/bench/bin/python"), help="has FastAPI")
    parser.add_argument("--results", type=Path, help="file of all figures; bench/results/<time>.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
