"""SIGTERM where nothing is there yet, in a process that has no default for it: as the first one of a container."""

import signal
import subprocess
import sys

import pytest

from tests.support.waiting import DEADLINE_S

BUSY = """
from services.chassis.early import end_at_once
end_at_once()
print("begun", flush=True)
while True:  # as an import does, which hears of no exception
    try:
        sum(range(1000))
    except BaseException:
        pass
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_told_to_end_before_it_listens_ends_well(signum: signal.Signals) -> None:
    ignored = f"--ignore-signal={signum.name.removeprefix('SIG')}"
    with subprocess.Popen(["env", ignored, sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == b"begun\n"
            process.send_signal(signum)
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
