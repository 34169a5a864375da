"""Times as a person writes them."""

from datetime import UTC, datetime, timedelta

from services.cli.documents.fields import seconds
from services.failure import Failure


def since(text: str, now: datetime) -> datetime:
    """RFC 3339 with its zone, not after `now`; or a duration such as 2h, that long before. Else raises Failure."""
    time = _read(text, now)
    if time.tzinfo is None:
        raise _no_time(text)
    if time > now:
        raise Failure(f"{text} is yet to come")
    return time


def moment(text: str, now: datetime) -> datetime:
    """The same for who only looks: it may be to come, and is UTC where no zone is said."""
    return _read(text, now).replace(tzinfo=UTC)


def _read(text: str, now: datetime) -> datetime:
    """In UTC, or without a zone where none is said."""
    try:
        if (before := seconds(text)) is not None:
            return now - timedelta(seconds=float(before))
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo else time
    except (ValueError, OverflowError):
        raise _no_time(text) from None


def _no_time(text: str) -> Failure:
    return Failure(f"{text} is no time: write 2026-03-01T12:00:00Z, or a duration such as 2h")
