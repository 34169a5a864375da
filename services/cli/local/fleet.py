"""The instances of a running shop: how many of which version, ended and replaced without a failed call."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

from services.cli.local.control import Command, Tell
from services.cli.local.free_ports import any_free
from services.cli.local.part import DRAINED, Part
from services.cli.local.readiness import REFUSALS, http, sends_calls, takes_no_more
from services.cli.local.releases import MOST, Release
from services.cli.local.stack import Stack
from services.cli.local.supervisor import Supervisor
from services.cli.settings import SERVICES
from services.failure import Failure

ROUTED_S = 10.0
"""So long may Envoy take to send calls to an instance that has registered."""

ENVOY = "envoy"
DRAIN_S = 12.0
"""So long may Envoy's callers take to leave it; who still holds a connection then has used it for nothing."""

ASK_EVERY_S = 0.05


class Fleet:
    def __init__(self, stack: Stack, supervisor: Supervisor) -> None:
        self._stack, self._supervisor = stack, supervisor
        self._spare_admin = 0
        """The port of the admin page of the Envoy that stands in."""
        self.commands: Mapping[str, Command] = {
            "scale": lambda asked, tell: self.scale(str(asked["release"]), int(asked["number"]), tell),
            "drain": lambda asked, tell: self.drain(str(asked["instance"]), tell),
            "restart": lambda asked, tell: self.restart(str(asked["name"]), tell),
        }
        """What can be asked for through the door of control.py."""

    async def scale(self, word: str, number: int, tell: Tell) -> None:
        """Makes so many instances of a release run; drained ones come back, or are forgotten. Raises Failure."""
        release = Release.parse(word)
        if not 0 <= number <= MOST:
            raise Failure(f"{number} instances of {release}: choose 0 to {MOST}")
        parts = self._supervisor.parts
        names = [release.instance(at) for at in range(1, MOST + 2)]  # one more than MOST while one stands in
        up = [name for name in names if name in parts and parts[name].state != DRAINED]
        down = [name for name in names if name in parts and parts[name].state == DRAINED]
        back = (down + [name for name in names if name not in parts])[: max(0, number - len(up))]
        for name in back:
            await self._start(name, tell)
        for name in reversed(up[number:]):
            await self._end(name, tell)
        for name in (*up[number:], *down):
            if name not in back:
                await self._supervisor.remove(name)
        tell(f"{release}: {number} instance{'' if number == 1 else 's'}")

    async def drain(self, name: str, tell: Tell) -> None:
        """Takes an instance out of the traffic: it finishes its calls, ends, and is not started again."""
        part, release = self._part(name), Release.of(name)
        if release is None:
            raise Failure(f"{name} is no instance of a service: `shopmesh restart {name}` restarts it")
        if part.state == DRAINED:
            raise Failure(f"{name} is drained already: `shopmesh restart {name}` brings it back")
        await self._end(name, tell)
        if not self._up(lambda other: other.service == release.service):
            tell(f"nobody serves {release.service} any more: `shopmesh restart {name}` brings it back")

    async def restart(self, name: str, tell: Tell) -> None:
        """Of a service every instance that runs, one after the other; else the one part of that name."""
        if name == ENVOY:
            await self._replace_envoy(tell)
            return
        chosen = self._up(lambda release: release.service == name) or [self._part(name).process.name]
        for one in chosen:
            stand_in = await self._stand_in(one, tell)
            if self._supervisor.parts[one].state != DRAINED:
                await self._end(one, tell)
            await self._start(one, tell)
            if stand_in:
                await self._end(stand_in, tell)
                await self._supervisor.remove(stand_in)

    async def _replace_envoy(self, tell: Tell) -> None:
        """Another one takes the calls meanwhile, on the same ports. Each finishes what it has before it ends."""
        stand_in = f"{ENVOY}-2"
        self._part(ENVOY)
        if stand_in not in self._supervisor.parts:  # it is still there where an earlier successor did not come up
            self._spare_admin = any_free()
            self._stack.write_bootstrap(stand_in, self._spare_admin)
            tell(f"{stand_in} stands in meanwhile")
            await self._supervisor.add(self._stack.envoy(stand_in, self._spare_admin))
        await self._drain_envoy(ENVOY, self._stack.ports["envoy-admin"], tell)
        await self._start(ENVOY, tell)
        await self._drain_envoy(stand_in, self._spare_admin, tell)
        await self._supervisor.remove(stand_in)

    async def _drain_envoy(self, name: str, admin: int, tell: Tell) -> None:
        with contextlib.suppress(*REFUSALS):  # it may have died: then there is nothing to drain
            await http(admin, "/healthcheck/fail", method="POST")
            await http(admin, "/drain_listeners?graceful", method="POST")
        give_up = time.monotonic() + DRAIN_S
        while not await takes_no_more(admin):
            if time.monotonic() > give_up:
                break
            await asyncio.sleep(ASK_EVERY_S)
        await self._end(name, tell)

    async def _stand_in(self, name: str, tell: Tell) -> str | None:
        """Started when `name` is the only instance of its release: it takes the calls while that one is away."""
        release = Release.of(name)
        if release is None or self._up(lambda other: other == release) != [name]:
            return None
        stand_in = release.instance(2) if name != release.instance(2) else release.instance(3)
        tell(f"{stand_in} stands in meanwhile")
        await self._start(stand_in, tell)
        return stand_in

    async def _start(self, name: str, tell: Tell) -> None:
        """Until it is registered and Envoy sends it calls."""
        began, supervisor = time.monotonic(), self._supervisor
        release = Release.of(name)
        if name in supervisor.parts:
            await supervisor.start(name)
        elif release:
            process = self._stack.instance(release, name)
            if missing := [need for need in process.needs if need not in supervisor.parts]:
                raise Failure(f"{name} needs {', '.join(missing)}, which this shop was started without")
            await supervisor.add(process)
        address = supervisor.parts[name].address
        if release and "envoy" in supervisor.parts and not await self._routed(release, address):
            tell(f"{name} runs at {address}, but Envoy does not send it calls yet: see `shopmesh mesh`")
        else:
            tell(f"{name} ready at {address} ({time.monotonic() - began:.1f} s)")

    async def _routed(self, release: Release, address: str) -> bool:
        give_up = time.monotonic() + ROUTED_S
        while not await sends_calls(self._stack.ports["envoy-admin"], release.service, address):
            if time.monotonic() > give_up:
                return False
            await asyncio.sleep(ASK_EVERY_S)
        return True

    async def _end(self, name: str, tell: Tell) -> None:
        began = time.monotonic()
        await self._supervisor.end(name)
        tell(f"{name} ended ({time.monotonic() - began:.1f} s)")

    def _part(self, name: str) -> Part:
        """Raises Failure when there is none."""
        parts = {name: part for name, part in self._supervisor.parts.items() if not part.process.once}
        if name not in parts and name in SERVICES:
            raise Failure(f"no instance of {name} runs: `shopmesh scale {name} 1` starts one")
        if name not in parts:
            raise Failure(f"there is no {name!r}: there are {', '.join(sorted(parts))}")
        return parts[name]

    def _up(self, of: Callable[[Release], bool]) -> list[str]:
        """The instances that are not drained."""
        releases = {name: Release.of(name) for name, part in self._supervisor.parts.items() if part.state != DRAINED}
        return [name for name, release in releases.items() if release and of(release)]
