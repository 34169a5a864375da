"""Zipkin Lens, the pages that draw traces: static files, read out of its jar.

Any address below /zipkin/ that is no file is a page of Lens.
"""

import mimetypes
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = "zipkin-lens/"
INDEX = "index.html"


class NotThere(Exception):
    """Why there is no Lens, and what mends it: one line for people."""


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    media_type: str
    named_by_content: bool
    """Its name changes with what is in it: it may be kept for ever."""


class Lens:
    def __init__(self, jar: Path | None) -> None:
        self._jar = jar

    def file(self, path: str) -> File:
        """What stands at /zipkin/<path>. Raises NotThere."""
        if self._jar is None:
            raise NotThere("no file is named in SHOPMESH_LENS")
        try:
            with zipfile.ZipFile(self._jar) as jar:
                name = path if path[-1:] not in ("", "/") and FOLDER + path in jar.namelist() else INDEX
                content = jar.read(FOLDER + name)
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise NotThere(f"{self._jar} cannot be read ({_why(error)})") from None
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return File(content, media_type, name.startswith(("static/js/", "static/css/")))

    def require(self) -> None:
        """Raises NotThere."""
        self.file(INDEX)


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
