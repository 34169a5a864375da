import subprocess
import sys

import pytest


@pytest.mark.parametrize("then", ["", "import rich.console"])
def test_a_process_that_logs_does_not_load_rich_and_may_load_it_itself(then: str) -> None:
    program = f"import sys, services.chassis.logs\n{then}\nprint('rich' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert told.strip() == str(bool(then))
