"""Pages from templates, in one look, in which whatever strangers wrote is text."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

_SHARED = Path(__file__).parent / "templates"
# C0 and C1 but tab and line feed, what turns the direction of writing around, what has no width, and half characters.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
LONGEST = 2_000
"""Characters of one text that a page shows."""


def plain(text: object, longest: int = LONGEST) -> str:
    """The text with everything in it that would not be seen, or would move other text, written out; cut if too long."""
    whole = str(text)
    cut = whole[:longest]
    shown = _UNSEEN.sub(lambda odd: f"\\u{ord(odd[0]):04x}", cut)
    return shown if len(whole) <= longest else f"{shown}… ({len(whole) - longest} more characters)"


def clock(time_ns: int) -> str:
    """Time of day in UTC, to the millisecond."""
    return f"{moment(time_ns):%H:%M:%S}.{time_ns // 1_000_000 % 1000:03}"


def moment(time_ns: int) -> datetime:
    """Of nanoseconds since 1970; what lies outside the calendar is its end."""
    try:
        return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC) if time_ns > 0 else datetime.min.replace(tzinfo=UTC)


def span_of_time(duration_ns: float) -> str:
    """As people say it: 350 µs, 12.3 ms, 1.25 s, 3 min, 2 h."""
    for unit, size, digits in (("µs", 1e3, 0), ("ms", 1e6, 1), ("s", 1e9, 2)):
        if duration_ns < {"µs": 1e6, "ms": 1e9, "s": 120e9}[unit]:
            return f"{duration_ns / size:.{digits}f} {unit}"
    minutes = duration_ns / 60e9
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"


class Renderer:
    """Templates of one process over those that all share (`base.html`), and the stylesheet: the shared, then its own.

    `tests` are what its templates ask of values, as in `{% if name is order_name %}`, and `filters` what they make of
    them.
    """

    def __init__(
        self,
        templates: Path,
        tests: Mapping[str, Callable[[object], bool]] | None = None,
        filters: Mapping[str, Callable[..., object]] | None = None,
    ) -> None:
        self._jinja = Environment(
            loader=ChoiceLoader([FileSystemLoader(templates), FileSystemLoader(_SHARED)]),
            autoescape=select_autoescape(),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._jinja.filters.update(plain=plain, clock=clock, moment=moment, span_of_time=span_of_time)
        self._jinja.tests.update(tests or {})
        self._jinja.filters.update(filters or {})
        own = sorted(templates.glob("*.css"))
        self._stylesheet = "\n".join(file.read_text() for file in (_SHARED / "pages.css", *own))

    def page(self, template: str, *, status: int = 200, **context: object) -> HTMLResponse:
        return HTMLResponse(self._jinja.get_template(template).render(context), status)

    async def stylesheet(self, request: Request) -> Response:  # noqa: ARG002
        """To be served as /pages.css."""
        return Response(self._stylesheet, media_type="text/css")
