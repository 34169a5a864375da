"""Where mails are kept: in memory, the newest of them."""

from collections.abc import Collection, Sequence

from services.mailbox.letters import Letter


class Shelf:
    """The newest mails, no more than `most` and no more than `most_bytes` together; the oldest make room."""

    def __init__(self, most: int = 2000, most_bytes: int = 64 * 1024 * 1024) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._letters: dict[str, Letter] = {}
        self._read: set[str] = set()
        self._bytes = 0

    def put(self, letter: Letter) -> None:
        """Keeps a mail, and drops the oldest until all fit. The newest is kept whatever its size."""
        self._letters[letter.id] = letter
        self._bytes += len(letter.raw)
        while len(self._letters) > 1 and (len(self._letters) > self._most or self._bytes > self._most_bytes):
            self._drop(next(iter(self._letters)))

    def newest_first(self) -> Sequence[Letter]:
        """All that is kept, in the order of arrival backwards."""
        return list(reversed(self._letters.values()))

    def open(self, id: str) -> Letter | None:
        """The mail of that id, or the newest for `latest`; it counts as read from now on."""
        letter = next(reversed(self._letters.values()), None) if id == "latest" else self._letters.get(id)
        if letter:
            self._read.add(letter.id)
        return letter

    def is_read(self, letter: Letter) -> bool:
        """Whether somebody opened it."""
        return letter.id in self._read

    def unread(self) -> int:
        """How many nobody has opened."""
        return len(self._letters) - len(self._read)

    def delete(self, ids: Collection[str]) -> None:
        """Forgets these mails; ids of none are passed over."""
        for id in ids:
            if id in self._letters:
                self._drop(id)

    def delete_all(self) -> None:
        """Forgets every mail."""
        self.delete(list(self._letters))

    def _drop(self, id: str) -> None:
        self._bytes -= len(self._letters.pop(id).raw)
        self._read.discard(id)
