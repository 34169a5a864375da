"""Why something cannot be done, in words for a person."""


class Failure(Exception):
    """What is in the way, and what mends it, in one line. A command ends with it, and a process does not start."""
