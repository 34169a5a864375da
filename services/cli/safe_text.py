"""Text of strangers, for a terminal."""

import re

_UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def safe(text: str) -> str:
    """With everything written out that moves the cursor, colours the screen, turns text around or is not seen.

    Line feeds stay: whoever prints several lines deals with them before.
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def safe_line(text: str) -> str:
    """The same in one line."""
    return safe(" ".join(text.split()))
