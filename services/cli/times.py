"""Times as a person writes them."""

from datetime import UTC, datetime, timedelta

from services.cli.fields import seconds
from services.cli.process import CannotStart


def since(text: str, now: datetime) -> datetime:
    """RFC 3339, or a duration such as 2h, that long before `now`. Raises CannotStart for what is neither."""
    if (before := seconds(text)) is not None:
        return now - timedelta(seconds=float(before))
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise CannotStart(f"{text} is no time: write 2026-03-01T12:00:00Z, or a duration such as 2h")
    if time > now:
        raise CannotStart(f"{text} is yet to come")
    return time.astimezone(UTC)
