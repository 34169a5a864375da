"""Zipkin Lens, which draws traces on the pages of `telemetry`, from Maven Central.

`python -m services.cli.local.lens` fetches it. Without it everything else works, so it never keeps a stack from
starting.
"""

import json
import sys
from pathlib import Path

from services.cli.local.downloads import Artifact, cache_folder, fetch
from services.failure import Failure

VERSION = "3.4.3"
LENS = Artifact(
    coordinate=f"io.zipkin:zipkin-lens:{VERSION}",
    file_name=f"zipkin-lens-{VERSION}.jar",
    sha256="0e4ea360f04694c9bf81456005f32413a015007860c61e9648fee5e4e48ba3fc",
    size=758_669,
    title=f"Zipkin Lens {VERSION}",
)


def jar() -> Path:
    """Where it is kept, once it is there."""
    return cache_folder() / LENS.file_name


def main() -> None:
    """Fetches it, telling progress as JSON lines; where it cannot be had, that is said, and is no failure."""
    try:
        fetch(LENS, cache_folder(), _progress)
    except (Failure, OSError) as error:
        print(f"Zipkin Lens is missing, so traces are not drawn: {error}", file=sys.stderr)


def _progress(step: str, done: float = 0, total: float = 0) -> None:
    print(json.dumps({"step": step, "done": done, "total": total}), flush=True)


if __name__ == "__main__":
    main()
