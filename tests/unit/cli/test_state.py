import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from services.cli.local.state import StateFolder, end_leftovers, memory
from services.failure import Failure


def row(**facts: object) -> dict[str, object]:
    return {"name": "nats", "state": "ready", "pid": None, "address": "", "started": 0.0, **facts}


def test_a_second_supervisor_in_a_folder_is_told_who_runs_there(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    with folder.hold():
        assert folder.holder() == os.getpid()
        with pytest.raises(Failure, match=f"process {os.getpid()}"):
            folder.hold()
    assert folder.holder() is None


def test_parts_of_a_stack_that_is_gone_are_stopped(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.write({"pid": 1, "ready": True, "ports": {}, "parts": [row(pid=1)]})

    assert folder.read() == {"pid": 1, "ready": False, "ports": {}, "parts": [row(state="stopped")]}


@pytest.mark.parametrize("text", ["", "[]", "7", "{}", '{"pid": 1, "ports": {}, "parts": [{"title": "nats"}]}'])
def test_what_another_version_wrote_is_as_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)

    assert StateFolder(tmp_path).read() == {"ready": False, "ports": {}, "parts": []}
    end_leftovers(StateFolder(tmp_path))


def test_a_full_disk_keeps_the_news_before(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.write({"pid": 1, "ports": {}, "parts": []})
    (tmp_path / "stack.part").symlink_to("/dev/full")

    folder.write({"pid": 2, "ports": {}, "parts": []})

    assert folder.read()["pid"] == 1


def test_a_folder_where_nothing_ran_has_no_ports(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no shop runs"):
        StateFolder(tmp_path).ports()


def test_what_a_killed_supervisor_left_is_ended_and_strangers_are_not(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(sleeper) as left, subprocess.Popen(sleeper) as stranger:
        started = psutil.Process(left.pid).create_time()
        parts = [row(pid=left.pid, started=started), row(pid=stranger.pid, started=started - 3600)]
        StateFolder(tmp_path).write({"pid": 1, "ports": {}, "parts": parts})

        end_leftovers(StateFolder(tmp_path))

        assert left.poll() is not None
        assert stranger.poll() is None
        stranger.kill()


def test_memory_is_summed_over_the_tree_and_zero_for_nobody() -> None:
    rss, pss = memory(os.getpid())

    assert rss >= pss > 1_000_000
    assert memory(None) == (0, 0)
