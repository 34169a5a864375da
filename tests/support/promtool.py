"""Prometheus's own tool, where there is one: on the PATH, or built once by `make promtool`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def promtool() -> str | None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shopmesh" / "promtool"
    return shutil.which("promtool") or (str(cache) if cache.exists() else None)


PROMTOOL = promtool()
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="there is no promtool: `make promtool` builds one, or install Prometheus"
)


def told_by_promtool(*words: str, stdin: str = "", cwd: Path | None = None) -> str:
    """What it prints. Raises AssertionError when it finds fault."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *words], input=stdin, capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
