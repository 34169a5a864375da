"""Whether orders, stock, events and mails agree, told with the mend of each difference.

A cut through four stores at one moment cannot be had. So whatever differs is looked at again a little later: it counts
when it is still there, unchanged, and older than the workers may take.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import batched
from uuid import UUID

from services.chassis.bus.access import BusUnavailable
from services.chassis.bus.looking import Looking
from services.chassis.settings import PasswordFile
from services.cli.audit.rows import AT_ONCE, BURIED, DEAD_LETTERS, LEDGER, NOW, STOCK, STREAM_KNOWN, cases, slices
from services.cli.audit.rules import MENDS, Case, Difference, Surroundings, dead_letter, judged, ledger, moment, stock
from services.cli.audit.stream import STREAM, InStream, differing, mistold, read
from services.story.databases import Databases

LATE = timedelta(seconds=60)
"""What takes longer is a difference. The longest step of a healthy worker: a lease of 30 s is over, a pause of 12 s."""
PAUSE_S = 3.0
MOST = 1000
"""Differences of one kind that are named; of more it is told how many there are."""
EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Report:
    """What was looked at and what was found."""

    since: datetime | None
    """None: everything there is."""
    until: datetime
    counts: Counter[str] = field(default_factory=Counter[str])
    differences: list[Difference] = field(default_factory=list[Difference])
    more: Counter[str] = field(default_factory=Counter[str])
    """By kind, how many were seen beyond those that are named, at the first look."""
    notes: Counter[str] = field(default_factory=Counter[str])
    """What is no difference and worth knowing."""
    unseen: str = ""
    """What could not be looked at, and why."""

    @property
    def kinds(self) -> set[str]:
        return {difference.kind for difference in self.differences}

    @property
    def exit_code(self) -> int:
        return 1 if self.differences else 2 if self.unseen else 0


async def look(
    urls: Mapping[str, str],
    nats_url: str,
    nats_password: PasswordFile | None = None,
    *,
    since: datetime | None = None,
    deep: bool = False,
    late: timedelta = LATE,
    most: int = MOST,
    pause: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(PAUSE_S),
) -> Report:
    """Looks twice, with a `pause` in between, at what began since then, at what is under way, and at all stock.

    `urls` are those of the databases of order, inventory and notification, for the role `audit`; `deep` reads events
    whole. Raises CannotTell when a database does not answer; when it is the stream, `unseen` says so.
    """
    async with AsyncExitStack() as stack:
        databases = await stack.enter_async_context(Databases(urls))
        [now] = await databases.read("order", NOW)
        report = Report(since, now[0])
        audit = _Audit(databases, report, deep, late, most)
        try:
            audit.looking = await stack.enter_async_context(Looking(nats_url, nats_password))
        except BusUnavailable:
            audit.without_stream()
        suspects = [*await audit.look_at_stream(), *await audit.look_at_all()]
        if suspects:
            await pause()
            await audit.look_again(suspects)
    kinds = list(MENDS)
    report.differences.sort(key=lambda difference: (kinds.index(difference.kind), list(difference.ids.values())))
    # Where none of those that are named was still there, the others are not either.
    report.more = Counter({kind: report.more[kind] for kind in report.more if kind in report.kinds})
    return report


@dataclass(slots=True)
class _Audit:
    databases: Databases
    report: Report
    deep: bool
    late: timedelta
    most: int
    looking: Looking | None = None
    stream: InStream = field(default_factory=InStream)
    began: float = field(default_factory=time.monotonic)
    seen: Counter[str] = field(default_factory=Counter[str])

    def without_stream(self) -> None:
        self.report.unseen, self.looking = "the stream of events: NATS does not answer", None

    async def look_at_stream(self) -> list[Difference]:
        """Before the rows: a row is committed before its message is sent, so for each message there is a row."""
        if self.looking is None:
            return []
        try:
            found = await read(self.looking, self.stream, self.report.since, self.databases if self.deep else None)
        except BusUnavailable:
            self.without_stream()
            return []
        ids = {"stream": STREAM}
        if found is None:
            return [Difference("stream-missing", ids, "there is no such stream")]
        self._tell(found.differences)
        self.report.counts |= Counter(messages=self.stream.messages, distinct_event_ids=self.stream.distinct)
        [known] = await self.databases.read("order", STREAM_KNOWN)
        if known["create_time"] == found.created:
            return []
        what = f"it was made {moment(found.created)}, and Order knows that of {moment(known['create_time'])}"
        return [Difference("stream-unnoticed", ids, what)]

    async def look_at_all(self) -> list[Difference]:
        """Tells what is sure at once, and returns what has to be looked at again."""
        suspects, surroundings = list[Difference](), await self._surroundings()
        async for ids in slices(self.databases, self.report.since or EVER):
            for case in await cases(self.databases, ids, payloads=self.deep):
                self._count(case)
                suspects += self._few(self._judged(case, surroundings))
        self._tell(await self._strangers())
        self._tell(await self._stock())
        self._tell(dead_letter(row) for row in await self.databases.read("notification", DEAD_LETTERS, self.most + 1))
        return suspects

    async def look_again(self, suspects: Sequence[Difference]) -> None:
        """Tells what is as it was."""
        again = {difference.key for difference in await self.look_at_stream()}
        surroundings = await self._surroundings()
        orders = {UUID(suspect.ids["order"]) for suspect in suspects if "order" in suspect.ids}
        for ids in batched(orders, AT_ONCE):
            for case in await cases(self.databases, ids, payloads=self.deep):
                again |= {difference.key for difference in self._judged(case, surroundings)}
        self.report.differences += [suspect for suspect in suspects if suspect.key in again]

    def _judged(self, case: Case, surroundings: Surroundings) -> list[Difference]:
        return [*judged(case, surroundings), *(mistold(case) if self.deep else ())]

    def _few(self, differences: Iterable[Difference]) -> Iterator[Difference]:
        """Of each kind no more than can be named."""
        for difference in differences:
            self.seen[difference.kind] += 1
            if self.seen[difference.kind] <= self.most:
                yield difference
            else:
                self.report.more[difference.kind] += 1

    def _tell(self, differences: Iterable[Difference]) -> None:
        self.report.differences += self._few(differences)

    async def _surroundings(self) -> Surroundings:
        return Surroundings(
            now=self.report.until + timedelta(seconds=time.monotonic() - self.began),
            late=self.late,
            buried=frozenset(row["event_id"] for row in await self.databases.read("notification", BURIED)),
            copies=self.stream.copies if self.looking else None,
            complete_since=self.stream.complete_since,
        )

    def _count(self, case: Case) -> None:
        counts, notes = self.report.counts, self.report.notes
        counts["orders"] += case.order is not None
        counts["events"] += len(case.events)
        counts["reservations"] += case.reservation is not None
        counts["notifications"] += len(case.notifications)
        if case.order and case.order["state"] == "PENDING_STOCK":
            notes["orders wait for Inventory (PENDING_STOCK)"] += 1
        for each in case.notifications:
            if each["state"] == "READY" and each["attempts"]:
                notes["mails were not accepted yet and are tried again"] += 1
            if each["possible_duplicates"]:
                notes["mails may have been sent twice: SMTP left the outcome of an attempt open"] += 1

    async def _strangers(self) -> list[Difference]:
        """Messages whose event was not met: of an older order that was sent again, or of none."""
        if self.looking is None:
            return []
        try:
            found = [await self.looking.message(STREAM, sequence) for sequence in self.stream.unknown(self.most + 1)]
        except BusUnavailable:
            self.without_stream()
            return []
        known = {
            (difference.kind, difference.ids["sequence"])
            for difference in self.report.differences
            if "sequence" in difference.ids
        }
        return [
            difference
            for difference in await differing([message for message in found if message], self.databases)
            if (difference.kind, difference.ids["sequence"]) not in known
        ]

    async def _stock(self) -> list[Difference]:
        differences = list[Difference]()
        for row in await self.databases.read("inventory", STOCK):
            self.report.counts["products"] += 1
            differences += stock(row)
        rows = await self.databases.read("inventory", LEDGER, self.report.since or EVER, self.most + 1)
        return [*differences, *map(ledger, rows)]
