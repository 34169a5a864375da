"""Servers that tests start end with the tests, however these end."""

import subprocess
import sys

import psutil

from tests.support.waiting import DEADLINE_S

TESTS = """
from tests.support.etcd import running_etcd
with running_etcd() as server:
    print(server.pid, flush=True)
    input()
"""


def test_a_server_ends_when_the_tests_are_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TESTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout
        server = psutil.Process(int(tests.stdout.readline()))
        tests.kill()

    _, left = psutil.wait_procs([server], timeout=DEADLINE_S)

    assert left == []
