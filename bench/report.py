"""Tables of a run and what they say of the goals: `python -m bench.report FILE`.

Ratios are taken within a round, in which the contenders took turns: what a busy machine leaves standing.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

type Row = dict[str, Any]
type Measure = Callable[[Row], float]

GENERATOR = "generator"
FLOOR, FASTAPI, ALL_SAMPLED, FEW_SAMPLED = "floor", "fastapi", "shop-100", "shop-1"
SHOPS = {ALL_SAMPLED: 100, FEW_SAMPLED: 1}
"""The shop, and how many of a hundred traces are recorded."""
SERVICES = ("product", "inventory", "order", "notification")


def services(row: Row) -> float:
    """CPU seconds per 1000 calls of the four services."""
    return _per_1000(row, SERVICES)


def everything(row: Row) -> float:
    """The same of all that is part of the contender: services, Envoy, stores, control plane, Keycloak."""
    return _per_1000(row, [role for role in row["cpu"] if role not in row["outside"]])


def _per_1000(row: Row, roles: Iterable[str]) -> float:
    cpu: dict[str, float] = row["cpu"]
    return 1000 * sum(cpu[role] for role in roles) / int(row["calls"])


def per_second(row: Row) -> float:
    """Calls answered in a second."""
    return float(row["per_second"])


@dataclass(frozen=True, slots=True)
class Goal:
    """DESIGN's bar at concurrency 16, as a ratio between two contenders."""

    what: str
    call: str
    measure: Measure
    of: str
    to: str
    at_most: float = float("inf")
    at_least: float = 0.0


GOALS = (
    Goal("CPU of services", "PlaceOrder", services, ALL_SAMPLED, FLOOR, at_most=0.85),
    Goal("CPU of services", "PlaceOrder", services, FEW_SAMPLED, FLOOR, at_most=0.70),
    Goal("CPU of everything", "PlaceOrder", everything, ALL_SAMPLED, FLOOR, at_most=0.80),
    Goal("CPU of everything", "PlaceOrder", everything, FEW_SAMPLED, FLOOR, at_most=0.70),
    Goal("CPU of services", "PlaceOrder", services, ALL_SAMPLED, FASTAPI, at_most=0.25),
    Goal("CPU of services", "PlaceOrder", services, FEW_SAMPLED, FASTAPI, at_most=0.25),
    Goal("orders per second", "PlaceOrder", per_second, ALL_SAMPLED, FASTAPI, at_least=3.0),
    Goal("orders per second", "PlaceOrder", per_second, FEW_SAMPLED, FASTAPI, at_least=3.0),
    Goal("CPU of services", "GetProduct", services, ALL_SAMPLED, FLOOR, at_most=1.35),
    Goal("CPU of services", "GetProduct", services, FEW_SAMPLED, FLOOR, at_most=1.15),
)


def tell(run: Row) -> str:
    """Everything that a run found, as Markdown."""
    loads: list[Row] = run["loads"]
    parts = ["\n".join(run["setting"])]
    if run["starts_s"]:
        starts = ", ".join(f"{took:.1f}" for took in run["starts_s"])
        parts.append(f"Start of the shop until it says ready: median {median(run['starts_s']):.1f} s of {starts} s.")
    calls = dict.fromkeys(row["call"] for row in loads)
    parts += [_speeds(call, [row for row in loads if row["call"] == call]) for call in calls]
    parts += [_cpu(loads), _trips(run["round_trips"]), _memory(run["memory_mib"]), _goals(loads)]
    parts += [mesh(run["mesh"])] if "mesh" in run else []
    parts += [truth(run["truth"])] if "truth" in run else []
    parts += [telemetry(run["telemetry"])] if "telemetry" in run else []
    return "\n\n".join(parts)


def _speeds(call: str, loads: Sequence[Row]) -> str:
    lines = []
    for (concurrency, name), rows in _by(loads, "concurrency", "contender").items():
        middle = [median(row.get(key, 0) for row in rows) for key in ("per_second", "p50", "p95", "p99", "drain_s")]
        cpu = (_spread([services(row) for row in rows]), _spread([everything(row) for row in rows]))
        against = _ratios(loads, rows, services)
        lines.append((concurrency, name, f"{middle[0]:.0f}", *(f"{value:.1f}" for value in middle[1:]), *cpu, against))
    columns = ("c", "contender", "calls/s", "p50 ms", "p95 ms", "p99 ms", "drain s", "CPU s/1000: services", "all",
               f"services / {FLOOR}")  # fmt: skip
    return _table(call, columns, lines)


def _ratios(loads: Sequence[Row], rows: Sequence[Row], measure: Measure) -> str:
    found = ratios(loads, rows, FLOOR, measure)
    return _spread(found) if found else ""


def ratios(loads: Sequence[Row], rows: Iterable[Row], to: str, measure: Measure) -> list[float]:
    """Each row over that of `to` for the same call, concurrency and round."""

    def place(row: Row) -> tuple[Any, ...]:
        return row["call"], row["concurrency"], row["round"]

    others = {place(row): measure(row) for row in loads if row["contender"] == to}
    return [measure(row) / others[place(row)] for row in rows if place(row) in others]


def _cpu(loads: Sequence[Row]) -> str:
    at16 = [row for row in loads if row["concurrency"] == 16]
    roles = list(dict.fromkeys(role for row in at16 for role in row["cpu"]))
    lines = []
    for (call, name), rows in _by(at16, "call", "contender").items():
        each = [median(1000 * row["cpu"].get(role, 0) / row["calls"] for row in rows) for role in roles]
        lines.append((call, name, *(f"{value:.3f}" if value >= 0.0005 else "" for value in each)))
    return _table("CPU seconds per 1000 calls, by process, at concurrency 16", ("call", "contender", *roles), lines)


def _trips(trips: Sequence[Row]) -> str:
    lines = [(row["call"], row["contender"], f"{row['per_call']:.1f}", row["by_database"]) for row in trips]
    return _table("SQL statements per call", ("call", "contender", "all", "by database"), lines)


def _memory(memory: Row) -> str:
    roles = list(dict.fromkeys(role for each in memory.values() for role in each))
    lines = [
        (name, f"{sum(each.values()):.0f}", *(f"{each[role]:.0f}" if role in each else "" for role in roles))
        for name, each in memory.items()
    ]
    return _table("PSS in MiB after the load", ("contender", "all", *roles), lines)


def _goals(loads: Sequence[Row]) -> str:
    lines = []
    for goal in GOALS:
        rows = [
            row
            for row in loads
            if (row["call"], row["contender"], row["concurrency"]) == (goal.call, goal.of, 16)
        ]  # fmt: skip
        if not (found := ratios(loads, rows, goal.to, goal.measure)):
            continue
        bar = f"<= {goal.at_most}" if goal.at_least == 0 else f">= {goal.at_least}"
        met = goal.at_least <= median(found) <= goal.at_most
        lines.append((goal.call, goal.what, f"{goal.of} / {goal.to}", bar, _spread(found), "met" if met else "MISSED"))
    columns = ("call", "measure at concurrency 16", "of", "goal", "found", "")
    return _table("Goals", columns, lines)


def mesh(sizes: Sequence[Row]) -> str:
    """What bench.mesh found."""
    puts, starts, calls = [], [], []
    for row in sizes:
        size = f"{row['services']} x {row['instances']}, {row['streams']} streams"
        for what in ("endpoint", "policy"):
            took, change = [1000 * each for each in row[what]["took_s"]], row[what]
            p50, p99 = median(took), took[min(len(took) - 1, int(0.99 * len(took)))]
            cpu = 1000 * change["cpu_s_per_change"]
            puts.append((size, what, f"{p50:.1f}", f"{p99:.1f}", f"{cpu:.1f}", f"{change['bytes_per_change']:.0f}"))
        for begun in row["starts"]:
            file = "yes" if begun["last_good"] else "no"
            starts.append((size, file, f"{begun['took_s']:.1f}", f"{begun['cpu_s']:.1f}"))
        for (concurrency, way), rows in _by(row.get("calls", ()), "concurrency", "way").items():
            figures = [_spread([each[key] for each in rows]) for key in ("p50", "p99", "per_second")]
            cpus = [_spread([each["cpu_ms"][role] for each in rows]) for role in ("ends", "envoy")]
            calls.append((concurrency, way, *figures, *cpus))
    changes = ("services x instances", "put of", "p50 ms", "p99 ms", "control plane CPU ms a change", "bytes a stream")
    return "\n\n".join(
        (
            _table("From a put in etcd to the traffic", changes, puts),
            _table("Start of the control plane", ("services x instances", "last good file", "s", "CPU s"), starts),
            _table(
                "A call past Envoy and through it",
                ("c", "way", "p50 ms", "p99 ms", "calls/s", "CPU ms: caller and called", "Envoy"),
                calls,
            ),
        )
    )


_WAITING = {"quiet": "none waits", "beside": "events wait"}


def truth(found: Row) -> str:
    """What bench.truth found."""
    beside = [{**row, "contender": row["shop"]} for row in found["beside"]]
    stored = [{**row, "contender": row["shop"]} for row in found["stored"]]
    drain = found["drain"]
    waiting = [{**row, "contender": name, "round": 0} for key, name in _WAITING.items() for row in drain[key]]
    databases = sorted({name for took in found["statements_ms"].values() for name in took})
    statements = [
        (shop, f"{sum(took.values()):.2f}", *(f"{took.get(name, 0):.2f}" for name in databases))
        for shop, took in found["statements_ms"].items()
    ]
    mails = [(row["concurrency"], f"{row['p50']:.0f}", f"{row['p99']:.0f}", row["mails"]) for row in found["mails"]]
    p99 = {key: {c: median(row["p99"] for row in rows) for (c,), rows in _by(drain[key], "concurrency").items()}
           for key in _WAITING}  # fmt: skip
    sent = f"{drain['events']} events were sent in {drain['took_s']:.0f} s; p99 beside, to that with none waiting: "
    sent += ", ".join(f"{beside / p99['quiet'][c]:.2f} at concurrency {c}" for c, beside in p99["beside"].items())
    return "\n\n".join(
        (
            _pairs("The version before, and this one", beside, "before"),
            _table("PostgreSQL's time for an order, ms, one at a time", ("shop", "all", *databases), statements),
            _table("From the commit of an order to its mail", ("c", "p50 ms", "p99 ms", "mails"), mails),
            _pairs(f"{found['orders']:,} stored orders (filled in {found['fill_s']:.0f} s)", stored, "empty"),
            "\n".join([f"`audit --all`: {found['audit']['took_s']:.0f} s", *found["audit"]["said"][-5:]]),
            _pairs("While events wait", waiting, ""),
            sent,
        )
    )


def telemetry(found: Row) -> str:
    """What bench.telemetry found."""
    parts = []
    if store := found.get("store"):
        taken = [
            (name, f"{store[key]['count']:,}", f"{store[key]['us']:.1f}", *_memory_of_store(store[key]))
            for name, key in (("spans by OTLP", "spans"), ("lines by OTLP", "lines"), ("lines from a file", "tail"))
        ]
        answers = [(name, f"{row['p50']:.1f}", f"{row['p99']:.1f}") for name, row in store["answers_ms"].items()]
        parts += [
            _table("What the store takes", ("what", "how many", "CPU us each", "PSS MB", "most", "disk MB"), taken),
            _table("What it answers with all of that", ("question", "p50 ms", "p99 ms"), answers),
            f"PSS at the start {store['pss_at_start_mb']:.0f} MB, after all questions {store['pss_asked_mb']:.0f} MB",
        ]
    if orders := found.get("orders"):
        parts.append(_pairs("Orders without telemetry, and with shares of traces in its own store", orders, "off"))
    return "\n\n".join(parts)


def _memory_of_store(row: Row) -> tuple[str, ...]:
    return tuple(f"{row[key]:.0f}" if key in row else "" for key in ("pss_mb", "most_mb", "disk_mb"))


def _pairs(title: str, loads: Sequence[Row], to: str) -> str:
    lines = []
    for (call, concurrency, name), rows in _by(loads, "call", "concurrency", "contender").items():
        figures = [_spread([row[key] for row in rows]) for key in ("per_second", "p50", "p99")]
        cpu = [_spread([measure(row) for row in rows]) for measure in (services, everything)]
        against = [ratios(loads, rows, to, measure) for measure in (services, everything, _p50)]
        ratio = [_spread(each) if each and name != to else "" for each in against]
        lines.append((call, concurrency, name, *figures, *cpu, *ratio))
    columns = ("call", "c", "shop", "calls/s", "p50 ms", "p99 ms", "CPU s/1000: services", "all",
               *(f"{what} / {to}" if to else "" for what in ("services", "all", "p50")))  # fmt: skip
    return _table(title, columns, lines)


def _p50(row: Row) -> float:
    return float(row["p50"])


def _by(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _spread(values: Sequence[float]) -> str:
    """Median, and from where to where when there are several."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f}..{max(values):.2f})"


def _table(title: str, columns: Sequence[object], lines: Iterable[Sequence[object]]) -> str:
    rows = [[str(cell) for cell in line] for line in (columns, *lines)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(columns))]
    rows.insert(1, ["-" * width for width in widths])
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([f"### {title}", "", *text])


if __name__ == "__main__":
    print(tell(json.loads(Path(sys.argv[1]).read_text())))
