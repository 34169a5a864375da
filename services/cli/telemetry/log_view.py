"""Log lines for people: one after the other, with what is severe in colour."""

import json
import re
from datetime import UTC, datetime

import click

from services.cli.safe_text import safe
from services.log_files import Line

_COLOURS = {"debug": "bright_black", "warning": "yellow", "error": "red"}
_WIDTH = 14
_FIRST = ("method", "path", "code", "grpc_status", "reason", "error")
"""What happened to whom; the rest follows, and what it belongs to."""


def rendered(line: Line) -> str:
    """When (UTC), who, how bad, what, and the rest as key=value; what has several lines comes below.

    Coloured; click takes the colours out where there is no terminal.
    """
    clock = f"{_second(line):%H:%M:%S}.{line.time_ns // 1_000_000 % 1000:03}"
    first, *below = line.message.split("\n")
    first_facts = {name: line.fields[name] for name in _FIRST if name in line.fields}
    facts = first_facts | dict(line.fields) | {"order": line.order, "trace_id": line.trace_id}
    inline = []
    for name, value in facts.items():
        if isinstance(value, str) and "\n" in value:
            below += [f"{name}:", *(f"  {text}" for text in value.split("\n"))]
        elif value not in ("", "-", None):
            inline.append(f"{click.style(f'{safe(name)}=', dim=True)}{safe(_word(value))}")
    level = click.style(f"{line.level:7}", fg=_COLOURS.get(line.level), bold=line.level == "error")
    head = f"{click.style(clock, dim=True)}  {safe(line.instance):{_WIDTH}}  {level}  {safe(first)}"
    return "\n".join(("  ".join((head, *filter(None, [" ".join(inline)]))), *(f"    {safe(text)}" for text in below)))


def day(line: Line) -> str:
    """Of a line, in UTC."""
    return f"{_second(line):%Y-%m-%d}"


def _second(line: Line) -> datetime:
    return datetime.fromtimestamp(line.time_ns // 1_000_000_000, UTC)


def _word(value: object) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    return value if value and not re.search(r"[\s=\"]", value) else json.dumps(value, ensure_ascii=False)
