"""Prometheus's own tool, where there is one."""

import shutil
import subprocess
from pathlib import Path

import pytest

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="there is no promtool: install Prometheus (Debian, Ubuntu: apt install prometheus)"
)


def told_by_promtool(*words: str, stdin: str = "", cwd: Path | None = None) -> str:
    """What it prints. Raises AssertionError when it finds fault."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *words], input=stdin, capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
