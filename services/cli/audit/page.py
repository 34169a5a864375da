"""What `shopmesh audit` says, for people and for programs."""

from collections.abc import Iterator
from datetime import datetime

from services.cli.audit.looking import Report
from services.cli.audit.rules import Difference, moment


def as_document(report: Report) -> dict[str, object]:
    """As docs/operating.md describes it."""
    return {
        "differences": [
            {
                "kind": each.kind,
                "ids": each.ids,
                "what": each.what,
                "since": _time(each.since),
                "mend": each.mend,
            }
            for each in report.differences
        ],
        "more": dict(report.more),
        "notes": dict(report.notes),
        "unseen": report.unseen,
        "looked_at": {"since": _time(report.since), "until": _time(report.until), **report.counts},
    }


def page(report: Report) -> str:
    """The differences first, and at the end what was looked at."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    for each in report.differences:
        yield from (*_difference(each, report.until), "")
    for kind, number in report.more.items():
        yield f"{number} more of {kind}"
    for what, number in report.notes.items():
        yield f"note: {number} {what}"
    counts = report.counts
    since = f"what is new since {moment(report.since)} or still under way" if report.since else "all there is"
    yield (
        f"looked at {since}: {counts['orders']} orders, {counts['events']} events, {counts['messages']} messages in "
        f"the stream, {counts['reservations']} reservations, {counts['notifications']} notifications; the stock of "
        f"{counts['products']} products"
    )
    if report.unseen:
        yield f"could not look at {report.unseen}"
    found = len(report.differences) + report.more.total()
    yield f"{found or 'no'} difference{'' if found == 1 else 's'}"


def _difference(each: Difference, now: datetime) -> Iterator[str]:
    ids = " ".join(f"{name} {id}" for name, id in each.ids.items())
    late = f", since {moment(each.since)} ({_age((now - each.since).total_seconds())})" if each.since else ""
    yield f"{each.kind}  {ids}"
    yield f"  {each.what}{late}"
    yield f"  mend: {each.mend}"


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _time(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
