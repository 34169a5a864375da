"""The Docker engine of this machine, by its own command."""

import subprocess
import sys


class CannotBuild(Exception):
    """Why there is no image, with the mend."""


def docker(*words: str) -> str:
    """What `docker WORDS` prints. Raises CannotBuild with what it says when it fails."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"docker {words[0]}: {done.stderr.strip() or done.stdout.strip()[-2000:]}")
    return done.stdout.strip()


def tell(line: str) -> None:
    """To whoever waits."""
    print(line, file=sys.stderr, flush=True)
