"""What queries ask for: names of metrics and labels, as far as the queries of this repository go."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SELECTOR = re.compile(r"\b(?:rpc|shop|shopmesh|process|db|messaging|target)[_:][a-z0-9_:]*")
_MATCHERS = re.compile(r"\{([^{}]*)\}")
_MATCHER = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*\"")
_GROUPED = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"")


@dataclass(frozen=True, slots=True)
class Asked:
    query: str
    metrics: frozenset[str]
    labels: frozenset[str]


def asked(query: str) -> Asked:
    """By one query."""
    grouped = [label.strip() for labels in _GROUPED.findall(query) for label in labels.split(",") if label.strip()]
    matched = [label for matchers in _MATCHERS.findall(query) for label in _MATCHER.findall(matchers)]
    bare = _GROUPED.sub("", _MATCHERS.sub("", _QUOTED.sub('""', query)))
    return Asked(query, frozenset(_SELECTOR.findall(bare)), frozenset(grouped) | frozenset(matched))


def said_by(legends: Sequence[str]) -> Iterator[str]:
    """Labels that Grafana's legends name."""
    for legend in legends:
        yield from re.findall(r"\{\{(\w+)\}\}", legend)
