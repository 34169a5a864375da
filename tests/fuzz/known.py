"""Names, etags and page tokens that the shop has handed out, so that made-up calls reach what is there."""

from collections import defaultdict
from collections.abc import Iterator

from google.api import resource_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MOST = 50
"""Of one kind; the latest stay."""


class Known:
    """What was heard waits until `join`: while one search runs, the same choice means the same name.

    What lists show is left to the tests that made it, but for kinds of things that only lists show.
    """

    def __init__(self) -> None:
        self._kept: dict[str, list[str]] = defaultdict(list)
        self._heard: dict[str, list[str]] = defaultdict(list)

    def pick(self, kind: str, number: int) -> str:
        """One of a kind, such as `shopmesh.dev/Order`, `etag` or `page_token`; empty when none is known."""
        kept = self._kept[kind]
        return kept[number % len(kept)] if kept else ""

    def hear(self, answer: Message) -> None:
        for kind, text in _told(answer):
            if text and text not in self._kept[kind] and text not in self._heard[kind]:
                self._heard[kind].append(text)

    def join(self) -> None:
        for kind, texts in self._heard.items():
            self._kept[kind] = [*self._kept[kind], *texts][-MOST:]
        self._heard.clear()


def resource_type(message: Message) -> str:
    """`shopmesh.dev/Order` of an Order; empty of what is no resource."""
    return type_of(message.DESCRIPTOR.GetOptions())


def type_of(options: Message) -> str:
    return str(options.Extensions[resource_pb2.resource].type)  # type: ignore[index]  # published without types


def _told(message: Message, *, listed: bool = False) -> Iterator[tuple[str, str]]:
    kind = resource_type(message)
    for field, value in message.ListFields():
        if field.message_type is not None and not _is_map(field):
            for part in value if field.is_repeated else [value]:
                yield from _told(part, listed=listed or field.is_repeated)
        elif field.name == "next_page_token":
            yield "page_token", value
        elif field.name == "etag" and not listed:
            yield "etag", value
        elif field.name == "name" and kind and (not listed or kind in _ONLY_LISTED):
            yield kind, value


_ONLY_LISTED = {"shopmesh.dev/Notification", "shopmesh.dev/DeadLetter"}


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
