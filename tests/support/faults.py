"""What can happen to a mesh under load, each fault from its beginning until its cause is gone.

The first line of a docstring is its row in docs/faults.md. What they return is said there as well.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from tests.support.fleet import NAMES, Fleet
from tests.support.steady import PER_SECOND, Call, Load, doubled

type Fault = Callable[[Fleet, Load], Awaitable[str]]

OUTAGE_S = 3.0


class Price(Enum):
    """Which calls may fail; of rpcs that are not idempotent none is ever carried out twice."""

    NOTHING = "no call fails"
    IN_FLIGHT = "a call that is not idempotent fails if an instance that is lost has it"
    OPEN = "what Envoy carries is lost with it"


NOTICED_S = 3.0
"""By then calls go round an instance that is lost, also on a loaded machine."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a fault cost."""

    fault: str
    calls: int
    failed: int
    failed_others: int
    doubled: int
    slow: int
    well_after_s: float
    said: str

    def __str__(self) -> str:
        told = f"{self.well_after_s:.1f} s"
        cells = (self.fault, self.calls, self.failed, self.failed_others, self.doubled, self.slow, told, self.said)
        return f"| {' | '.join(map(str, cells))} |"


HEAD = (
    "| fault | calls | failed: idempotent | failed: others | doubled | slower than 1 s | all well again after | |\n"
    "|---|---:|---:|---:|---:|---:|---:|---|"
)


async def under(fault: Fault, fleet: Fleet, price: Price = Price.NOTHING) -> Row:
    """Lets it happen under a steady load. Raises AssertionError when it costs more than its price."""
    assert fault.__doc__
    async with fleet.load() as load:
        await load.seconds(1)
        began = time.monotonic()
        said = await fault(fleet, load)
        over = time.monotonic()
        await fleet.well()
        well = time.monotonic()
        await load.seconds(1)
    twice, never = doubled(load, fleet.executed)
    all_idempotent, all_others = load.failed(idempotent=True), load.failed(idempotent=False)
    # What a machine that stands still costs is told, and is not the price of the fault.
    idempotent, others = ([one for one in some if not load.stood_still(one)] for some in (all_idempotent, all_others))
    if still := len(all_idempotent) + len(all_others) - len(idempotent) - len(others):
        said = f"{said}; the machine stood still: {still} of the failed calls".removeprefix("; ")
    row = Row(
        fault.__doc__.partition("\n")[0].rstrip("."),
        len(load.calls),
        len(all_idempotent),
        len(all_others),
        len(twice),
        len(load.slow),
        well - over,
        said,
    )
    told = f"{row}\nbegan at {began:.2f}, over at {over:.2f}\n"
    assert not never, f"answered, and nobody carried it out: {told}{_list(never)}"
    assert not twice, f"carried out twice: {told}{_list(twice)}"
    assert price is Price.OPEN or not idempotent, f"{told}{_list(idempotent)}"
    match price:
        case Price.NOTHING:
            assert not others, f"{told}{_list(others)}"
        case Price.IN_FLIGHT:
            late = [one for one in others if one.began > over + NOTICED_S]
            assert not late, f"{told}{_list(late)}"
            assert len(others) <= NOTICED_S * PER_SECOND / 2 / len(NAMES), f"{told}{_list(others)}"
        case Price.OPEN:
            pass
    return row


def _list(calls: list[Call]) -> str:
    return "\n".join(map(str, calls[:20]))


# --- instances -----------------------------------------------------------------------------------------------------
async def _replace(fleet: Fleet, name: str) -> None:
    await fleet.retire(name)
    await fleet.add(name)


async def rolling_restart(fleet: Fleet, _load: Load) -> str:
    """Every instance of every service is restarted, one after the other."""
    for name in NAMES:
        await _replace(fleet, name)
        await fleet.well()
    return ""


async def killed(fleet: Fleet, load: Load) -> str:
    """One of three instances is killed (SIGKILL), and started again later."""
    others = [one for one in load.under_way.values() if not one.rpc.idempotent]
    began = time.monotonic()
    await fleet.lose("a")
    await fleet.routed(NAMES[1:])
    out = time.monotonic() - began
    await load.seconds(1)
    await fleet.add("a")
    return f"out after {out:.1f} s; {len(others)} calls of others were under way, with all three"


async def killed_and_back_at_once(fleet: Fleet, _load: Load) -> str:
    """An instance is killed and restarted before its old lease ended."""
    await fleet.lose("a")
    await fleet.add("a")
    return ""


async def another_on_its_address(fleet: Fleet, _load: Load) -> str:
    """An instance is killed, and one of another name takes its addresses."""
    lost = await fleet.lose("a")
    await fleet.add("a2", like=lost)
    # The record of the lost one goes with its lease; until then the two share one address.
    await fleet.well()
    await fleet.retire("a2")
    await fleet.add("a")
    return ""


async def frozen(fleet: Fleet, load: Load) -> str:
    """One of three instances hangs (SIGSTOP), and goes on later."""
    began = time.monotonic()
    await asyncio.to_thread(fleet.instances["a"].freeze)
    await fleet.routed(NAMES[1:])
    out = time.monotonic() - began
    await load.seconds(1)
    fleet.instances["a"].thaw()
    return f"out after {out:.1f} s"


# --- control plane -------------------------------------------------------------------------------------------------
async def control_plane_killed(fleet: Fleet, load: Load) -> str:
    """The control plane is killed; an instance is restarted meanwhile."""
    await asyncio.to_thread(fleet.mesh.controlplane.kill)
    await _replace(fleet, "a")
    await load.seconds(1)
    await asyncio.to_thread(fleet.mesh.controlplane.start)
    return ""


async def control_plane_frozen(fleet: Fleet, load: Load) -> str:
    """The control plane hangs; an instance is restarted meanwhile."""
    await asyncio.to_thread(fleet.mesh.controlplane.freeze)
    await _replace(fleet, "a")
    await load.seconds(OUTAGE_S)
    fleet.mesh.controlplane.thaw()
    return ""


async def one_of_two_control_planes_killed(fleet: Fleet, load: Load) -> str:
    """Of two control planes the one that Envoy listens to is killed; an instance is restarted meanwhile."""
    address = await asyncio.to_thread(fleet.mesh.envoy.listens_to)
    (lost,) = [one for one in fleet.mesh.controlplanes if one.address == address]
    await asyncio.to_thread(lost.kill)
    await _replace(fleet, "a")
    await fleet.well()
    told_by = await asyncio.to_thread(fleet.mesh.envoy.listens_to)
    assert told_by != address
    await load.seconds(1)
    await asyncio.to_thread(lost.start)
    return ""


# --- etcd ----------------------------------------------------------------------------------------------------------
def etcd_stopped(outage_s: float) -> Fault:
    async def fault(fleet: Fleet, load: Load) -> str:
        await asyncio.to_thread(fleet.mesh.etcd.kill)
        await load.seconds(outage_s)
        await asyncio.to_thread(fleet.mesh.etcd.start)
        return ""

    fault.__name__, fault.__doc__ = f"etcd_stopped_{outage_s:g}", f"Etcd is away for {outage_s:g} s"
    return fault


async def etcd_away_and_restart(fleet: Fleet, load: Load) -> str:
    """Etcd is away while the control plane is killed and started again."""
    await asyncio.to_thread(fleet.mesh.etcd.kill)
    await asyncio.to_thread(fleet.mesh.controlplane.kill)
    await asyncio.to_thread(fleet.mesh.controlplane.start)
    await load.seconds(OUTAGE_S)
    await asyncio.to_thread(fleet.mesh.etcd.start)
    return ""


async def wiped(fleet: Fleet, _load: Load) -> str:
    """Etcd loses all its data."""
    await asyncio.to_thread(fleet.mesh.etcd.wipe)
    return ""


async def wiped_and_control_plane_killed(fleet: Fleet, _load: Load) -> str:
    """Etcd loses all its data while the control plane is restarted."""
    await asyncio.to_thread(fleet.mesh.controlplane.kill)
    await asyncio.to_thread(fleet.mesh.etcd.wipe)
    await asyncio.to_thread(fleet.mesh.controlplane.start)
    return ""


async def restored(fleet: Fleet, load: Load) -> str:
    """Etcd is restored from a snapshot that is older than all instances."""
    await asyncio.to_thread(fleet.mesh.etcd.back_up)
    await rolling_restart(fleet, load)
    await asyncio.to_thread(fleet.mesh.etcd.restore)
    return ""


async def compacted(fleet: Fleet, load: Load) -> str:
    """Etcd is compacted beyond what a hanging control plane has seen."""
    await asyncio.to_thread(fleet.mesh.controlplane.freeze)
    await asyncio.to_thread(fleet.mesh.etcd.churn, "/shop/endpoints/nobody/", 4000)
    await load.seconds(1)
    fleet.mesh.controlplane.thaw()
    return ""


def etcd_frozen(outage_s: float) -> Fault:
    async def fault(fleet: Fleet, load: Load) -> str:
        await asyncio.to_thread(fleet.mesh.etcd.freeze)
        await load.seconds(outage_s)
        fleet.mesh.etcd.thaw()
        return ""

    fault.__name__, fault.__doc__ = "etcd_frozen", f"Etcd hangs for {outage_s:g} s: longer than leases live"
    return fault


async def member_killed(fleet: Fleet, load: Load) -> str:
    """One of three members of etcd is killed, the one that is asked first; an instance is restarted meanwhile."""
    await asyncio.to_thread(fleet.mesh.etcd.kill)
    await _replace(fleet, "a")
    await load.seconds(OUTAGE_S)
    await asyncio.to_thread(fleet.mesh.etcd.start)
    return ""


async def member_frozen(fleet: Fleet, load: Load) -> str:
    """One of three members of etcd hangs for longer than leases live, the one that is asked first."""
    await asyncio.to_thread(fleet.mesh.etcd.freeze)
    await load.seconds(15)
    fleet.mesh.etcd.thaw()
    return ""


# --- Envoy ---------------------------------------------------------------------------------------------------------
async def envoy_swapped(fleet: Fleet, load: Load) -> str:
    """Envoy is replaced by another one on the same ports."""
    old, new = fleet.mesh.envoy, fleet.mesh.another_envoy()
    await asyncio.to_thread(new.start)
    await load.seconds(1)
    fleet.mesh.envoy = new
    await asyncio.to_thread(old.retire)
    return ""


async def envoy_killed(fleet: Fleet, _load: Load) -> str:
    """Envoy is killed and started again."""
    await asyncio.to_thread(fleet.mesh.envoy.kill)
    await asyncio.to_thread(fleet.mesh.envoy.start)
    return ""


async def envoy_killed_without_control_plane(fleet: Fleet, load: Load) -> str:
    """Envoy is killed and started again while the control plane is away."""
    await asyncio.to_thread(fleet.mesh.controlplane.kill)
    await asyncio.to_thread(fleet.mesh.envoy.kill)
    # It listens only when it has been told where.
    starting = asyncio.create_task(asyncio.to_thread(fleet.mesh.envoy.start))
    await load.seconds(OUTAGE_S)
    await asyncio.to_thread(fleet.mesh.controlplane.start)
    await starting
    return "no call passes until a control plane is there"


SHORT: dict[Fault, Price] = {
    rolling_restart: Price.NOTHING,
    killed: Price.IN_FLIGHT,
    killed_and_back_at_once: Price.IN_FLIGHT,
    frozen: Price.IN_FLIGHT,
    control_plane_killed: Price.NOTHING,
    control_plane_frozen: Price.NOTHING,
    etcd_away_and_restart: Price.NOTHING,
    wiped: Price.NOTHING,
    wiped_and_control_plane_killed: Price.NOTHING,
    envoy_swapped: Price.NOTHING,
}
"""Of `make test`: each was green in 20 runs on a busy machine, and never red since its last fix."""
LONG: dict[Fault, Price] = {
    **SHORT,
    restored: Price.NOTHING,
    compacted: Price.NOTHING,
    another_on_its_address: Price.IN_FLIGHT,
    etcd_stopped(30): Price.NOTHING,
    etcd_frozen(15): Price.NOTHING,
    envoy_killed: Price.OPEN,
    envoy_killed_without_control_plane: Price.OPEN,
    etcd_stopped(600): Price.NOTHING,
}
OF_THREE: dict[Fault, Price] = {member_killed: Price.NOTHING, member_frozen: Price.NOTHING}
OF_TWO: dict[Fault, Price] = {one_of_two_control_planes_killed: Price.NOTHING}
"""Where there are two control planes, neither of them a leader."""
