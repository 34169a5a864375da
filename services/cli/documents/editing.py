"""What an editor shows of a document, and what is read of what was saved: JSON, with comments in lines of their own."""

import json
import tempfile
from collections.abc import Mapping
from typing import Any


def page(title: str, defaults: Mapping[str, Any], body: str, note: str = "") -> str:
    """What the editor shows: the document, and the defaults beside it as comments."""
    head = [
        f"{title}. It goes over the defaults, field by field.",
        "These lines are no part of it. The defaults:",
        *(f"  {line}" for line in json.dumps(defaults, indent=2).splitlines()),
        *(["", *note.splitlines()] if note else []),
    ]
    return "".join(f"// {line}".rstrip() + "\n" for line in head) + body.strip() + "\n"


def changed_meanwhile(theirs: str | None) -> str:
    """The note for who was overtaken."""
    return "\n".join(
        [
            "CHANGED MEANWHILE by somebody else, now it reads:",
            *pretty(theirs).splitlines(),
            "Take over what you want of it; delete this line to write your text in its place.",
        ]
    )


def without_comments(text: str) -> str:
    """The document that was saved."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))


def pretty(document: str | None) -> str:
    """What is no JSON is shown as it is, to be mended."""
    try:
        return json.dumps(json.loads(document or "{}"), indent=2)
    except ValueError:
        return document or ""


def kept(service: str, text: str) -> str:
    """The file that a text was put into, not to be lost."""
    with tempfile.NamedTemporaryFile("w", prefix=f"shopmesh-{service}-", suffix=".json", delete=False) as file:
        file.write(text)
    return file.name
