"""Being told to end before there is anything to end."""

import os
import signal


def end_at_once() -> None:
    """Until something else takes them, SIGTERM and SIGINT end this process at once, with exit code 0.

    Called before anything else, imports that take long included. The first process of a container has no default for
    signals: one that it does not handle is lost (pid_namespaces(7)), and whoever stops the container waits until he
    kills it. No exception is raised: in the middle of an import it might be passed over.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
