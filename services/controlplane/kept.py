"""The documents that operators wrote, as they were last seen in etcd: on disk, for the day when etcd is wiped."""

import json
from collections.abc import Mapping
from pathlib import Path

from services.chassis import logs

_log = logs.get()


class Kept:
    """By key, in a file of this control plane's own. Its folder is made when needed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.documents: Mapping[str, bytes] = self._read()

    def keep(self, documents: Mapping[str, bytes]) -> None:
        """Replaces the file whole: a crash leaves the old one or the new one."""
        if documents == self.documents:
            return
        self.documents = documents
        written = {key: document.decode(errors="surrogateescape") for key, document in sorted(documents.items())}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(written, indent=1))
        part.replace(self._file)

    def _read(self) -> dict[str, bytes]:
        """Nothing when there is no file, or none that can be read."""
        try:
            written = json.loads(self._file.read_text())
            return {key: document.encode(errors="surrogateescape") for key, document in written.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            _log.warning("the kept documents cannot be read", path=str(self._file), error=str(error))
            return {}
