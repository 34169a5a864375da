"""What processes have used, from /proc."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")

type Costs = dict[str, float]
"""By role of the process."""


def cpu_seconds(pids: Mapping[str, int]) -> Costs:
    """User and system time of each process, of its children and of those that have ended."""
    return {role: _tree(_cpu, pid) for role, pid in pids.items()}


def pss_mib(pids: Mapping[str, int]) -> Costs:
    """Memory of each process and its children, what is shared split among those who share it."""
    return {role: _tree(_pss, pid) for role, pid in pids.items()}


def machine() -> str:
    """What the figures were taken on."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} x {model[1] if model else 'unknown'}, {memory:.0f} GiB, Linux {os.uname().release}"


def busy_share(before: tuple[int, int]) -> float:
    """How busy all cores were since `before`, 0 to 1: more than our own share of it means that we were not alone."""
    idle, total = idle_and_total()
    return 1 - (idle - before[0]) / max(1, total - before[1])


def idle_and_total() -> tuple[int, int]:
    """Ticks of all cores since boot."""
    times = [int(field) for field in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    return times[3] + times[4], sum(times)


def _tree(measure: Callable[[Path], float], pid: int) -> float:
    """Of a process and its descendants, any of which may end meanwhile."""
    try:
        own = measure(Path(f"/proc/{pid}"))
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return own + sum(_tree(measure, child) for child in children)


def _cpu(at: Path) -> float:
    fields = (at / "stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def _pss(at: Path) -> float:
    found = re.search(r"^Pss:\s+(\d+)", (at / "smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0
