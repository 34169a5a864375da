"""`shopmesh serve`, as the image runs it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import DEADLINE_S


@contextmanager
def serving(name: str, folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "serve", name],
        env={**os.environ, "SHOPMESH_STATE_DIR": str(folder), "SHOPMESH_ETCD": "127.0.0.1:1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_process_is_called_after_its_host_and_ends_when_told(tmp_path: Path) -> None:
    with serving("controlplane", tmp_path, SHOPMESH_ADS_LISTEN="127.0.0.1:0") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())

        process.send_signal(signal.SIGTERM)

        assert first["instance"] == f"controlplane-{socket.gethostname()}"
        assert process.wait(DEADLINE_S) == 0


def test_it_is_called_as_it_is_told(tmp_path: Path) -> None:
    with serving("controlplane", tmp_path, SHOPMESH_ADS_LISTEN="127.0.0.1:0", SHOPMESH_INSTANCE="pod-7") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["instance"] == "pod-7"


def test_what_is_no_process_of_the_shop_is_refused(tmp_path: Path) -> None:
    with serving("ordre", tmp_path) as process:
        said, _ = process.communicate(timeout=DEADLINE_S)

    assert "'ordre' is not one of 'product', 'order'" in said
    assert process.returncode == 2
